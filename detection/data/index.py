"""A label file and an image folder → an index: flat arrays of images and their objects.

Shapes: M images, T objects in all, S objects as stated, G objects of one image, K categories. Boxes are float32
(x0, y0, x1, y1), half-open, in pixels of the image. Label l in 1..K stands for `category_ids[l - 1]`; 0 is background.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.common.errors import UserError
from detection.data.findings import Findings, Purpose, UnusableLabels
from detection.data.image_checks import (
    ImagePlaces,
    find_images,
    look_at_images,
    path_of_image,
    refuse_names_that_lead_out,
    sizes_of,
    without_unusable_images,
)
from detection.data.plausibility import find_implausible
from detection.data.readers.coco import read_tables
from detection.data.readers.source import Source
from detection.data.repairs import (
    Links,
    annotation_ids_of,
    categories_of,
    corner_boxes,
    count_repeated_objects,
    count_shared_names,
    distinct_images,
    link,
)
from detection.data.row_parts import by_image, parts_of, taken
from detection.data.shards import open_shards
from detection.data.tables import Tables
from detection.data.tensor_file import MappedPart

_OF_OBJECTS = ("boxes", "labels", "crowds", "annotation_ids", "areas")


class _Mappable:
    """Pickles arrays that lie in a mapped file as their places in it."""

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: (isinstance(value, np.ndarray) and MappedPart.of(value)) or value
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(
            {name: value.array() if isinstance(value, MappedPart) else value for name, value in state.items()}
        )


@dataclass(frozen=True, eq=False)
class StatedObjects(_Mappable):
    """The objects of a split as its label file states them, as COCO's evaluation uses them: boxes are not clipped, and
    those without an area are included.

    offsets int64 (M + 1,): the objects of image i are rows offsets[i] to offsets[i + 1], in the file's order, of boxes
    float64 (S, 4) as (x, y, width, height), labels int64 (S,), crowds bool (S,) and areas float64 (S,).
    """

    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray

    def subset(self, images: np.ndarray) -> StatedObjects:
        """The objects of only these images, in this order."""
        rows, offsets = _gather(self.offsets, images)
        return StatedObjects(offsets, self.boxes[rows], self.labels[rows], self.crowds[rows], self.areas[rows])


@dataclass(frozen=True, eq=False)
class DatasetIndex(_Mappable):
    """Images of one split by ascending id, and their objects by ascending annotation id, for any order in the file.
    It holds arrays only: workers share them, and pickling them is cheap.

    image_ids int64 (M,); heights, widths int32 (M,); name_bytes uint8 and name_offsets int64 (M + 1,): the file names,
    UTF-8, end to end. category_ids int64 (K,), ascending as loaded; category_names: K names.
    offsets int64 (M + 1,): the objects of image i are rows offsets[i] to offsets[i + 1] of boxes float32 (T, 4),
    labels int64 (T,), crowds bool (T,), annotation_ids int64 (T,) and areas float64 (T,).
    fingerprint: SHA-256 of everything except the paths. A subset keeps the fingerprint of the full index.
    findings: what was repaired.
    image_root: None for an index that was loaded without images; its heights and widths are 0, its boxes not clipped.
    stated: the objects that an evaluation compares detections with; None for an index that was loaded for training.
    Nothing above depends on the purpose. digests: uint8 (M, 16), of the images' pixels, for an index that was loaded
    with check="sound"; thumbnails uint8 (M, 16, 16): likewise, see `similar_images`. open_classes: whether the labels
    list only the classes that occur in them. tars, places int64 (M, 3): see `image_checks.ImagePlaces`.

    A subset gathers a column of its objects when it is first asked for. `objects` reads those of one image from the
    index that it is a subset of.
    """

    name: str
    image_root: Path | None
    annotation_file: Path
    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    name_bytes: np.ndarray
    name_offsets: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    annotation_ids: np.ndarray
    areas: np.ndarray
    fingerprint: str
    findings: Findings
    stated: StatedObjects | None = None
    digests: np.ndarray | None = None
    thumbnails: np.ndarray | None = None
    open_classes: bool = False
    tars: list[str] | None = None
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, i: int) -> str:
        """The file name of image i as the annotations give it."""
        return (
            self.name_bytes[self.name_offsets[i] : self.name_offsets[i + 1]]
            .tobytes()
            .decode("utf-8", "surrogateescape")
        )

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""
        return int(self.heights[i]), int(self.widths[i])

    def path(self, i: int) -> Path:
        """The path of image i's file.

        Raises:
            ValueError: the index was loaded without images.
        """
        if self.image_root is None:
            raise ValueError(f"the index of {self.annotation_file} was loaded without images")
        return path_of_image(self.image_root, self.file_name(i), i, self.tars, self.places)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(boxes (G, 4), labels (G,), crowds (G,)) of image i, as views."""
        if "boxes" not in vars(self):
            whole, images = vars(self)["_source"]
            found: tuple[np.ndarray, np.ndarray, np.ndarray] = whole.objects(int(images[i]))
            return found
        rows = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[rows], self.labels[rows], self.crowds[rows]

    def __getattr__(self, name: str) -> Any:
        source = vars(self).get("_source")
        if source is None or name not in _OF_OBJECTS:
            raise AttributeError(name)
        whole, images = source
        column = vars(self)[name] = getattr(whole, name)[_gather(whole.offsets, images)[0]]
        return column

    def __getstate__(self) -> dict[str, Any]:
        source = vars(self).get("_source")
        if source is None or MappedPart.of(source[0].boxes) is not None:
            return super().__getstate__()
        own = {name: getattr(self, name) for name in _OF_OBJECTS}  # not all of what this is a part of
        return {name: value for name, value in (super().__getstate__() | own).items() if name != "_source"}

    @property
    def has_target(self) -> np.ndarray:
        """Whether each image has an object that is not a crowd region, bool (M,)."""
        found = np.diff(self.offsets) > 0
        if self.crowds.any():
            found[found] = np.logical_or.reduceat(~self.crowds, self.offsets[:-1][found])
        return found

    @property
    def aspect_ratios(self) -> np.ndarray:
        """Width by height, float64 (M,)."""
        return self.widths / self.heights

    def require_stated(self) -> StatedObjects:
        """The objects as the labels state them.

        Raises:
            ValueError: the index was loaded for training.
        """
        if self.stated is None:
            raise ValueError(f"{self.name} was loaded for training, not with purpose='evaluation'")
        return self.stated

    def subset(self, indices: Sequence[int] | np.ndarray) -> DatasetIndex:
        """The same split with only these images, in this order."""
        images = np.asarray(indices, dtype=np.int64)
        objects, offsets = _gather(self.offsets, images)
        letters, name_offsets = _gather(self.name_offsets, images)
        own = vars(self) | {
            "image_ids": self.image_ids[images],
            "heights": self.heights[images],
            "widths": self.widths[images],
            "name_bytes": self.name_bytes[letters],
            "name_offsets": name_offsets,
            "offsets": offsets,
            "stated": self.stated and self.stated.subset(images),
            "digests": None if self.digests is None else self.digests[images],
            "thumbnails": None if self.thumbnails is None else self.thumbnails[images],
            "places": None if self.places is None else self.places[images],
        }
        whole, of_whole = own.get("_source", (self, None))
        if of_whole is not None or not isinstance(objects, slice):  # the objects are not all as they are in the whole
            own = {name: value for name, value in own.items() if name not in _OF_OBJECTS}
            own["_source"] = whole, images if of_whole is None else of_whole[images]
        part = object.__new__(DatasetIndex)
        vars(part).update(own)
        return part

    def in_class_order(self, order: Sequence[int] | np.ndarray) -> DatasetIndex:
        """The same split with its classes in another order: the new label l was label order[l - 1] + 1.

        order: each of 0..K - 1 once.
        """
        positions = np.asarray(order, dtype=np.int64)
        new_labels = np.argsort(positions) + 1
        stated = self.stated
        return dataclasses.replace(
            self,
            category_ids=self.category_ids[positions],
            category_names=[self.category_names[position] for position in positions.tolist()],
            labels=new_labels[self.labels - 1],
            stated=stated and dataclasses.replace(stated, labels=new_labels[stated.labels - 1]),
        )

    def with_classes(self, ids: Sequence[int] | np.ndarray, names: Sequence[str]) -> DatasetIndex:
        """The same split with these classes, which include its own by name; each name must be there once."""
        label_of = np.array([0, *(1 + list(names).index(name) for name in self.category_names)], dtype=np.int64)
        stated = self.stated
        return dataclasses.replace(
            self,
            category_ids=np.asarray(ids, dtype=np.int64),
            category_names=list(names),
            labels=label_of[self.labels],
            stated=stated and dataclasses.replace(stated, labels=label_of[stated.labels]),
        )

    def non_empty(self) -> DatasetIndex:
        """The images with at least one object that is not a crowd region: those with targets for training.

        Raises:
            UserError: there is no such image.
        """
        kept = np.flatnonzero(self.has_target)
        if len(kept) == 0:
            raise UserError(f"{self.annotation_file}: no image has an object that could be trained on")
        return self.subset(kept)


def load_index(
    annotations: str | os.PathLike[str] | Mapping[str, Any] | Source,
    images: str | os.PathLike[str] | None,
    *,
    name: str,
    purpose: Purpose = "training",
    check: Literal["listed", "present", "sound"] = "listed",
    skip_missing: bool = False,
    skip_unreadable: bool = False,
    part: Callable[[Tables], np.ndarray] | None = None,
) -> DatasetIndex:
    """Reads labels, a COCO annotation file or the dict that it holds, into an index named `name`.

    Defects are repaired and counted in `.findings`, or refused: `findings.py` lists every kind.

    Args:
        images: the folder of the image files, or tar files that hold them (see `shards`). None if only stored
            detections are compared with the objects: then the images' names and sizes are not needed and not checked.
        purpose: what the index is for. "evaluation" adds `.stated` and follows pycocotools where training differs.
        check: what is required of the images. "listed": nothing; only those without a stated size are opened.
            "present": each has a file, and boxes that are implausible as a whole are reported. "sound": each can be
            decoded and has the size that the annotations state, and everything implausible is reported.
        skip_missing, skip_unreadable: with check "present" or "sound", images without a file, or without a size in
            labels and file, are left out and counted.
        part: the tables → which of the images count, bool (M,); None: all.

    Raises:
        UserError: the file is unreadable, or it has defects whose intent is not clear: all are listed, with counts and
        first examples, followed by those that could be repaired.
    """
    source: Source | Path | Mapping[str, Any] = (
        annotations if isinstance(annotations, Mapping) or hasattr(annotations, "read") else Path(annotations)  # type: ignore[assignment]
    )
    file = Path("the annotations in memory") if isinstance(source, Mapping) else source
    file = file if isinstance(file, Path) else file.labels
    root = None if images is None else Path(images)
    findings = Findings(purpose)
    folders: Sequence[Path] = ()
    if isinstance(source, (Path, Mapping)):
        tables, open_classes = read_tables(source, findings, of_files=root is not None), False
    else:
        folders = source.places
        tables, open_classes = source.read(findings, of_files=root is not None), source.open_classes
    if part is not None:
        tables = tables.of_images(part(tables))
    shards = None if root is None else open_shards(root)
    if root is not None and check != "listed" and (skip_missing or skip_unreadable):
        tables = without_unusable_images(tables, root, shards, skip_missing, skip_unreadable, findings, folders)
    rows = distinct_images(tables, findings)
    image_ids, names = tables.image_ids[rows], tables.names
    if not isinstance(rows, slice):
        names = [names[i] for i in rows.tolist()]
    count_shared_names(names, findings)
    places, sizes, digests, thumbnails = None, None, None, None
    if root is not None:
        stated_sizes = tables.heights[rows], tables.widths[rows]
        there = refuse_names_that_lead_out(names, findings)
        places = ImagePlaces(root, names, there)
        if check != "listed" or shards is not None:
            places = find_images(root, shards, names, there, findings if check != "listed" else Findings(), folders)
        sizes = sizes_of(places, image_ids, stated_sizes, findings)
        if check == "sound":
            is_stated = (stated_sizes[0] > 0) & (stated_sizes[1] > 0)
            digests, thumbnails = look_at_images(places, sizes, is_stated, findings)
    category_ids, category_names = categories_of(tables, findings)
    named_by_id = tables.place_of is None
    links = link(tables, image_ids, category_ids, findings, in_place=named_by_id)
    later = Findings(purpose)  # found before the boxes are overwritten, but told after their defects
    annotation_ids = annotation_ids_of(tables, later)
    if check != "listed" and sizes is not None:
        find_implausible(tables, links, sizes, category_names, later, closely=check == "sound")
    boxes, usable = corner_boxes(tables, links, sizes, findings, in_place=named_by_id and purpose == "training")
    findings.extend(later)
    if findings.refused:
        raise UnusableLabels(f"{file}: cannot be used:\n{findings.refusal()}", findings, root)

    heights, widths = sizes or (np.zeros(len(names)), np.zeros(len(names)))
    stated = _stated(tables, links, len(names)) if purpose == "evaluation" else None
    objects, offsets = by_image(usable, links.image_rows, len(names), annotation_ids)
    unordered, crowds, areas = links.labels, tables.crowds, tables.areas
    if named_by_id:  # no message names a row of the tables from here on
        tables.boxes, tables.crowds, tables.areas = np.zeros((0, 4)), np.zeros(0, dtype=bool), np.zeros(0)
        tables.annotation_ids = tables.image_of = tables.category_of = np.zeros(0, dtype=np.int64)
        tables.image_id_of = None
    del links, usable
    boxes = taken(boxes, objects)  # one column after the other, each instead of the unordered one
    areas, crowds = taken(areas, objects), taken(crowds, objects)
    labels = taken(unordered, objects, np.int64)
    del unordered
    annotation_ids = taken(annotation_ids, objects, np.int64)
    del objects
    content = {
        "image_ids": image_ids,
        "heights": heights.astype(np.int32),
        "widths": widths.astype(np.int32),
        **_packed(names),
        "category_ids": category_ids,
        "offsets": offsets,
        "boxes": boxes,
        "labels": labels,
        "crowds": crowds,
        "annotation_ids": annotation_ids,
        "areas": areas,
    }
    count_repeated_objects(content, tables, findings)
    fingerprint = _fingerprint(content, category_names)  # of the names as stated, not as found on disk
    return DatasetIndex(
        name=name,
        image_root=None if places is None else places.root,
        tars=None if places is None else places.tars,
        places=None if places is None else places.places,
        annotation_file=file,
        category_names=category_names,
        fingerprint=fingerprint,
        findings=findings,
        stated=stated,
        digests=digests,
        thumbnails=thumbnails,
        open_classes=open_classes,
        **(content | (_packed(places.files) if places else {})),
    )


def _packed(names: Sequence[str]) -> dict[str, np.ndarray]:
    letters, offsets = bytearray(), np.zeros(len(names) + 1, dtype=np.int64)
    for part in parts_of(len(names)):
        encoded = [text.encode("utf-8", "surrogateescape") for text in names[part]]
        letters += b"".join(encoded)
        offsets[part.start + 1 : part.stop + 1] = [len(text) for text in encoded]
    return {"name_bytes": np.frombuffer(letters, dtype=np.uint8), "name_offsets": np.cumsum(offsets)}


def _stated(tables: Tables, links: Links, images: int) -> StatedObjects:
    rows, offsets = by_image(links.kept, links.image_rows, images)
    return StatedObjects(
        offsets,
        taken(tables.boxes, rows),
        taken(links.labels, rows, np.int64),
        taken(tables.crowds, rows),
        taken(tables.areas, rows),
    )


def _fingerprint(content: dict[str, np.ndarray], category_names: list[str]) -> str:
    digest = hashlib.sha256(json.dumps(category_names).encode())
    for name, array in content.items():
        digest.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _gather(offsets: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray | slice, np.ndarray]:
    """(what selects the rows of these parts, concatenated; the offsets of the parts in them). It is a mask where the
    parts ascend, and selects all rows as they are, without a copy, where those left out are empty."""
    lengths = offsets[parts + 1] - offsets[parts]
    divided = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    if (parts[1:] > parts[:-1]).all():
        if divided[-1] == offsets[-1]:
            return slice(None), divided
        kept = np.zeros(len(offsets) - 1, dtype=bool)
        kept[parts] = True
        return np.repeat(kept, np.diff(offsets)), divided
    return np.arange(divided[-1]) + np.repeat(offsets[parts] - divided[:-1], lengths), divided
