"""A folder → the format of its labels, its splits, and the labels of one split; what is ambiguous is asked for.

Each format has a module that finds its labels (`readers/*_layout.py`). If several formats are found, they usually are
exports of the same labels: the first of `_FINDERS` that has a training set is taken, and the log names the others.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from backbones.common.errors import UserError
from detection.common.label_kinds import start_of, what_labels_are
from detection.data.listing import Listing
from detection.data.readers import coco_layout, csv_layout, voc_layout, yolo_layout
from detection.data.readers.coco import CocoSource
from detection.data.readers.csv_table import USUAL_NAMES, read_table
from detection.data.readers.images import ImagesSource
from detection.data.readers.layout import WHOLE, Layout
from detection.data.readers.source import TITLES, Format, Options, Source
from detection.data.shards import shard_files
from detection.data.split_words import split_of

logger = logging.getLogger(__name__)

_FINDERS: dict[Format, Callable[[Listing, Options], list[Layout]]] = {
    "coco": coco_layout.find_layouts,
    "yolo": yolo_layout.find_layouts,
    "voc": voc_layout.find_layouts,
    "csv": csv_layout.find_layouts,
}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")
# The splits that may be data.train or data.test, the preferred one first.
_ROLES: dict[str, tuple[str, ...]] = {"train": ("train", "trainval"), "test": ("test", "val")}


class NoSuchSplit(UserError):
    """Labels were found, but none for the split."""


def find_layout(root: Path, options: Options) -> Layout:
    """The labels in a folder.

    Raises:
        UserError: there is no such folder, it holds no labels that are read, or it is ambiguous which are meant; the
            message names the key that decides.
    """
    if root.is_file():
        kind = what_labels_are(start_of(root)) or "a file"
        raise UserError(f"{root}: is {kind.partition(';')[0]}; give its folder, {root.parent}, as data.root (--data)")
    listing = Listing(root)
    if options.format == "images":
        return _only_images(listing, options)
    found, faults = _layouts(listing, options)
    if not found and faults:
        raise faults[0]
    if not found:
        raise UserError(_nothing_found(listing, options.format))
    twice = [layout for layout in found if layout.format == found[0].format]
    if len(twice) > 1:
        raise UserError(
            f"{root}: several data sets are there: {'; '.join(layout.evidence for layout in twice)}; name the folder "
            "of one as data.root (--data), or its file as data.train.annotations"
        )
    usable = [layout for layout in found if layout.splits]
    if not usable:
        raise faults[0] if faults else UserError(f"{root}: {found[0]} has no usable split: {'; '.join(found[0].notes)}")
    usable.sort(key=lambda layout: not {"train", "trainval", WHOLE} & set(layout.splits))  # stable
    others = tuple(f"{layout} is there, too: data.format={layout.format} reads it" for layout in usable[1:])
    others += tuple(f"not read: {fault}" for fault in faults)
    return dataclasses.replace(usable[0], notes=usable[0].notes + others)


def _layouts(listing: Listing, options: Options) -> tuple[list[Layout], list[UserError]]:
    """The layouts of the wanted formats, and the errors of those that cannot be used."""
    found: list[Layout] = []
    faults: list[UserError] = []
    for format, find in _FINDERS.items():
        if options.format in (None, format):
            try:
                found += find(listing, options)
            except UserError as error:
                faults.append(error)
    return found, faults


def _only_images(listing: Listing, options: Options) -> Layout:
    if not listing.images:
        raise UserError(f"{listing.root}: no images are there")
    classes, names = tuple(options.classes), tuple(listing.images)
    return Layout("images", "every image", {WHOLE: lambda: ImagesSource(listing.root, names, classes)})


def _nothing_found(listing: Listing, wanted: Format | None) -> str:
    """The message about a folder without labels that are read: what is there instead."""
    if not listing.files:
        return f"{listing.root}: is empty; name the folder of the data set with --data"
    what = "labels that are read (COCO, YOLO, Pascal VOC, CSV)" if wanted is None else f"{TITLES[wanted]} labels"
    text = f"{listing.root}: no {what} were found there"
    kinds: dict[str, str] = {}
    for file in listing.with_ending(".json", ".jsonl", ".xml", ".txt", ".yaml", ".yml", ".csv", ".parquet", ".data"):
        kind = what_labels_are(start_of(listing.root / file))
        if kind == "a CSV table":
            kind += f", whose header names no image, or no box; {USUAL_NAMES}"
        if kind and not kind.startswith("a COCO file"):
            kinds.setdefault(kind, file)
        if len(kinds) == 3:
            break
    if kinds:
        return f"{text}; " + "; ".join(f"{file} is {kind}" for kind, file in kinds.items())
    archives = listing.with_ending(*_ARCHIVES)
    if archives:
        return f"{text}; {archives[0]} is an archive: unpack it"
    if listing.images:
        return (
            f"{text}, only {len(listing.images)} images: tools/predict.py detects objects in them; to train, add their "
            "labels, or name them as data.train.annotations and data.train.images"
        )
    return f"{text}; name them as data.train.annotations and data.train.images, or another folder with --data"


def source_of_split(
    layout: Layout, root: Path, which: str, name: str, *, quiet: bool = False, said: list[str] | None = None
) -> Source:
    """The labels of data.train or data.test (`which`) in a folder whose layout was found; what was found is logged,
    unless `quiet`.

    name: that of the split in the configuration; where a split of the folder has that name, it is the one.
    said: receives the line that is logged.

    Raises:
        UserError: the folder has no such split, or is one set without division.
    """
    if which == "train" and layout.format == "images":
        raise UserError(f"{root}: data.format=images reads no labels: there is nothing to train on")
    split = split_for(layout, which, name)
    if split is None:
        there = ", ".join(key for key in layout.splits if key != WHOLE)
        notes = f" ({'; '.join(layout.notes)})" if layout.notes else ""
        if len(layout.splits) == 1:
            only = next(iter(layout.splits))
            raise NoSuchSplit(
                f"{root}: {layout} has no splits{notes}; data.split.test=0.2 divides it, data.{which}.name={only} "
                f"takes all of it, or name other labels as data.{which}.annotations and data.{which}.images"
            )
        raise NoSuchSplit(
            f"{root}: {layout} has no split for data.{which}, only {there}{notes}; name its labels as "
            f"data.{which}.annotations and data.{which}.images, or one of these as data.{which}.name"
        )
    source = layout.splits[split]()
    others = [key for key in layout.splits if key not in (split, WHOLE)]
    line = f"data.{which}: {layout} in {root}" + ("" if split == WHOLE else f", split {split}")
    line += f" (there are also {', '.join(others)})" if others else ""
    line += f"; {'; '.join(layout.notes)}" if layout.notes else ""
    logger.log(logging.DEBUG if quiet else logging.INFO, "%s", line)
    if said is not None:
        said.append(line)
    return source


def split_for(layout: Layout, which: str, name: str) -> str | None:
    """The split of a folder that is data.train or data.test (`which`), called `name` in the configuration; None if it
    has none."""
    return WHOLE if layout.format == "images" else _choose(layout.splits, which, name)


def _choose(splits: Mapping[str, object], which: str, name: str) -> str | None:
    if name in splits:
        return name
    if name not in ("train", "test") and split_of(name) in splits:
        return split_of(name)
    found = next((split for split in _ROLES.get(which, ()) if split in splits), None)
    return WHOLE if found is None and which == "train" and WHOLE in splits else found


def source_of_files(annotations: Path, images: Path | None, which: str, options: Options) -> Source:
    """The labels that a configuration names: a COCO file, a data.yaml, a CSV file, or a folder of XML or YOLO files.

    images: the folder of the images, or with COCO labels tar files (see `shards`); None: sought in the labels' own
    folder.

    Raises:
        UserError: there are no such labels, or they are of a kind that is not read, which the message names.
    """
    source = _source_of_files(annotations, images, which, options)
    if images is not None and source.format != "coco" and shard_files(images) is not None:
        raise UserError(
            f"data.{which}.images: images in tar files are read with COCO labels, and {annotations} is "
            f"{TITLES[source.format]}; tools/convert_dataset.py --to coco --shards N writes both"
        )
    return source


def _source_of_files(annotations: Path, images: Path | None, which: str, options: Options) -> Source:
    start = start_of(annotations)
    kind = what_labels_are(start)
    ending = annotations.suffix.lower()
    if annotations.is_dir():
        return _source_of_folder(annotations, images, which, options)
    if ending in (".yaml", ".yml") or kind.startswith("the data.yaml"):
        layout = yolo_layout.layout_of_yaml(Listing(annotations.parent), annotations.name, options)
        split = _choose(layout.splits, which, which)
        if split is None:
            raise UserError(f"{annotations}: names no split for data.{which}; it has {', '.join(layout.splits)}")
        return layout.splits[split]()
    if ending in (".csv", ".tsv") or kind == "a CSV table":
        table = read_table(annotations)
        if table is None:
            raise UserError(f"{annotations}: its header names no image, or no box; {USUAL_NAMES}")
        listing = Listing(images or annotations.parent)
        layout = csv_layout.layout_of_tables(listing, {_place_in(listing.root, annotations): table}, options)
        return layout.splits[_choose(layout.splits, which, which) or next(iter(layout.splits))]()
    if kind.startswith(("a Pascal VOC file", "a YOLO file")):
        raise UserError(f"{annotations}: is {kind} as data.{which}.annotations")
    if images is None:
        return coco_layout.source_of_file(Listing(annotations.parent), annotations.name, which)
    return CocoSource(annotations, images)


def _place_in(root: Path, file: Path) -> str:
    """A file's path below the nearest folder that it has in common with the root. The names of the folders above say
    nothing of its split."""
    try:
        return "/".join(part for part in Path(os.path.relpath(file, root)).parts if part != os.pardir)
    except ValueError:  # on another drive of Windows
        return file.name


def _source_of_folder(labels: Path, images: Path | None, which: str, options: Options) -> Source:
    """The labels in a folder, whose images are in another one, or in the same."""
    both = [labels.absolute(), (images or labels).absolute()]
    listing = Listing(Path(os.path.commonpath(both)), only=both)
    found, faults = _layouts(listing, options)
    if not found and faults:
        raise faults[0]
    for layout in found:
        split = _choose(layout.splits, which, which) or next(iter(layout.splits), None)
        if split is not None:
            return layout.splits[split]()
    raise UserError(f"data.{which}.annotations: {_nothing_found(listing, options.format)}")
