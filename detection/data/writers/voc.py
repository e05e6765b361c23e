"""Splits → a Pascal VOC data set: `Annotations/`, `JPEGImages/`, and the splits in `ImageSets/Main/`.

Boxes are written as VOC counts pixels: from 1, both corners within the box. Where a split has boxes off whole pixels or
beyond the image's left or upper edge, all corners of the set are written as edges from 0 on, as CVAT and Label Studio
do; our reader recognises either, for the whole set (`detection/data/readers/corners.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from backbones.common.errors import UserError
from backbones.common.text import first_of, printable
from detection.data.writers.objects import Split, short_number

# XML 1.0, section 2.2. Lone surrogates stand for bytes of a file's name that are no UTF-8.
_NOT_IN_XML = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")


def write_labels(folder: Path, splits: list[Split], categories: Mapping[str, int]) -> list[str]:
    """See `Writer`. Crowd regions are written as difficult objects.

    Raises:
        UserError: the name of an image or a class cannot be written in XML.
    """
    _refuse_names_beyond_xml(splits, categories)
    (folder / "Annotations").mkdir(parents=True)
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    names, notes = list(categories), []
    used: set[int] = set()
    sized_of_splits = [np.asarray((split.objects.boxes[:, 2:] > 0).all(axis=1)) for split in splits]
    corners_of_splits = [_corners(split.objects.boxes) for split in splits]
    left_out = sum(int((~sized).sum()) for sized in sized_of_splits)
    written = np.concatenate([one[sized] for one, sized in zip(corners_of_splits, sized_of_splits, strict=True)])
    shift = np.array([1, 1, 0, 0]) if (written % 1 == 0).all() and (written >= 0).all() else np.zeros(4)
    for split, edges, sized in zip(splits, corners_of_splits, sized_of_splits, strict=True):
        corners = edges + shift
        used |= set(split.objects.labels.tolist())
        for i, name in enumerate(split.files):
            _write(folder, split, i, name, corners, sized, names)
        stems = "".join(f"{PurePosixPath(name).stem}\n" for name in split.files)
        (folder / "ImageSets" / "Main" / f"{split.name}.txt").write_text(stems, encoding="utf-8", newline="\n")
    unused = [name for label, name in enumerate(names, start=1) if label not in used]
    if unused:
        notes.append(f"{len(unused)} classes without objects ({first_of(unused)}), which VOC lists nowhere")
    if left_out:
        notes.append(f"{left_out} boxes without width or height, which VOC's corners cannot say")
    return notes


def _refuse_names_beyond_xml(splits: list[Split], categories: Mapping[str, int]) -> None:
    for split in splits:
        for i, name in enumerate(split.files):
            if _NOT_IN_XML.search(name):
                raise UserError(
                    f"{printable(str(split.index.path(i)))}: the file's name is not UTF-8 or has control characters, "
                    "which VOC's XML cannot hold; rename the file"
                )
    for name in categories:
        if _NOT_IN_XML.search(name):
            raise UserError(
                f"the class '{printable(name)}' of {printable(str(splits[0].index.annotation_file))}: its name is not "
                "UTF-8 or has control characters, which VOC's XML cannot hold; rename the class"
            )


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (T, 4) as x, y, width, height → their corners, without the float64's last digits."""
    return np.round(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), 6)


def _write(
    folder: Path, split: Split, i: int, name: str, corners: np.ndarray, sized: np.ndarray, names: list[str]
) -> None:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", split.index.widths[i]), ("height", split.index.heights[i]), ("depth", 3)):
        _add(size, key, str(int(value)))
    rows = split.objects.of_image(i)
    for row in range(rows.start, rows.stop):
        if not sized[row]:
            continue
        label, crowd = int(split.objects.labels[row]), split.objects.crowds[row]
        element = ElementTree.SubElement(root, "object")
        for key, text in (("name", names[label - 1]), ("truncated", "0"), ("difficult", str(int(crowd)))):
            _add(element, key, text)
        place = ElementTree.SubElement(element, "bndbox")
        for key, number in zip(("xmin", "ymin", "xmax", "ymax"), corners[row].tolist(), strict=True):
            _add(place, key, short_number(number))
    ElementTree.indent(root)
    path = folder / "Annotations" / f"{PurePosixPath(name).stem}.xml"
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def _add(parent: ElementTree.Element, key: str, text: str) -> None:
    ElementTree.SubElement(parent, key).text = text


def image_folder(split: str) -> str:
    """Where the images of a split lie."""
    return "JPEGImages"
