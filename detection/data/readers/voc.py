"""Pascal VOC labels, an XML file for each image → tables. Where the files are: `detection.data.readers.voc_layout`.

An image belongs to the label file of its own name, as in VOC itself; only if there is none does `filename` count. The
paths in `path` and `folder` are of the labeller's disk and are not read. Objects marked as `difficult` become crowd
regions, which VOC's evaluation treats alike: they are neither to be found nor false to find. Coordinates:
`detection.data.readers.corners`. Images are numbered from 1 on in the order of their names, classes in that of theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from detection.data.findings import Example, Findings
from detection.data.foreign_names import ImageFiles, resolve_names
from detection.data.readers.corners import boxes_of_corners, checked_sizes, must_be_edges
from detection.data.readers.source import Format
from detection.data.readers.voc_xml import VocFile
from detection.data.tables import LARGEST_AREA, Tables


@dataclass(frozen=True)
class VocSource:
    """A split in Pascal VOC format.

    labels: the folder of the XML files, or the list of a split. images: what image names are relative to. files: the
    split's label files. image_files: all images below `images`. classes: the class names of all splits, sorted.
    stems: those of the other splits' label files. first_pixel, edges_in_set: see `boxes_of_corners`.
    places: see `Source`.
    """

    labels: Path
    images: Path
    files: tuple[VocFile, ...]
    image_files: ImageFiles
    classes: tuple[str, ...]
    stems: frozenset[str] = frozenset()
    first_pixel: int | None = None
    edges_in_set: bool = False
    places: tuple[Path, ...] = ()
    format: Format = field(default="voc", init=False)
    open_classes: bool = field(default=True, init=False)

    @property
    def has_edges(self) -> bool:
        """Whether a corner is at 0 or at a fraction of a pixel."""
        return have_edges(self.files)

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """See `Source.read`."""
        for file in self.files:
            for kind, what in file.found:
                findings.add(kind, 1, [f"{file.path}: {what}"])
        named = [(self._image_of(file, findings), file) for file in self.files]
        named.sort(key=lambda pair: pair[0])
        names, files = [name for name, _ in named], [file for _, file in named]
        counts = [len(file.objects) for file in files]
        of_image = np.repeat(np.arange(len(files)), counts)
        numbers = np.concatenate([np.arange(count) for count in counts]) + 1 if counts else np.zeros(0, dtype=np.int64)

        def place_of(row: int) -> Example:
            return Example(f"{files[of_image[row]].path}, object {numbers[row]}", names[of_image[row]])

        boxes = boxes_of_corners(_corners(files), self.first_pixel, findings, place_of, edges_in_set=self.edges_in_set)
        stated = np.array([(file.height, file.width) for file in files], dtype=np.int64).reshape(-1, 2)
        heights, widths = stated[:, 0], stated[:, 1]
        if of_files:
            heights, widths = checked_sizes(self.images, names, (heights, widths), of_image, boxes, findings)
            self._find_unlabelled(names, findings)
        number_of = {name: number for number, name in enumerate(self.classes, start=1)}
        difficult = np.array([own for file in files for _, own in file.objects], dtype=bool)
        marked = np.flatnonzero(difficult).tolist()
        findings.add("difficult", len(marked), map(place_of, marked))
        find_alike(self.classes, findings)
        return Tables(
            image_ids=np.arange(1, len(files) + 1),
            heights=heights,
            widths=widths,
            names=names,
            annotation_ids=np.arange(1, len(boxes) + 1),
            image_of=of_image + 1,
            category_of=np.array([number_of[name] for file in files for name, _ in file.objects], dtype=np.int64),
            boxes=boxes,
            crowds=difficult,
            areas=np.minimum(np.maximum(boxes[:, 2], 0) * np.maximum(boxes[:, 3], 0), LARGEST_AREA),
            categories=list(enumerate(self.classes, start=1)),
            place_of=place_of,
        )

    def _image_of(self, file: VocFile, findings: Findings) -> str:
        """The name of a label file's image."""
        near = os.path.relpath(file.path, self.images).replace(os.sep, "/")
        stem = PurePosixPath(near).stem
        stated = PurePosixPath(file.name.replace("\\", "/")).name
        same_stem = PurePosixPath(stated).stem == stem or stated == stem
        # Of a.jpg and its mask a.png, the one that is named counts.
        own = self.image_files.meant_by(stated, near) if same_stem else None
        own = own or self.image_files.of_stem(f"{stem}.", near)
        if own is None:
            return resolve_names([file.name or stem], self.image_files, findings, near)[0]
        if stated and stated.lower() != PurePosixPath(own).name.lower():
            kind = "image_ending" if same_stem else "image_of_label_file"
            findings.add(kind, 1, [f"{file.path}: {stated} → {own}"])
        return own

    def _find_unlabelled(self, names: list[str], findings: Findings) -> None:
        """Counts the images in the folders of labelled ones that no label file is of."""
        used = set(names)
        folders = {name.rpartition("/")[0] for name in names}
        rest = [
            file
            for file in sorted(self.image_files.files - used)
            if file.rpartition("/")[0] in folders and PurePosixPath(file).stem not in self.stems
        ]
        findings.add("image_unlabelled", len(rest), rest)


def have_edges(files: Iterable[VocFile]) -> bool:
    """Whether a corner in one of the files is at 0 or at a fraction of a pixel."""
    return bool(must_be_edges(_corners(files)).any())


def _corners(files: Iterable[VocFile]) -> np.ndarray:
    return np.array([own for file in files for own in file.corners], dtype=np.float64).reshape(-1, 4)


def find_alike(classes: tuple[str, ...], findings: Findings) -> None:
    """Adds class names that differ only in capitals, blanks, "-" and "_" to the findings."""
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(name.lower().replace("-", "").replace("_", "").replace(" ", ""), name)
        if other != name:
            findings.add("class_names_alike", 1, [f"{other!r} and {name!r}"])
