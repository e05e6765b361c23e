"""A COCO annotation file → flat tables of its images, annotations and categories; what is repaired is counted.

Only single entries are judged here (is the id a whole number, are there four numbers in the box?); what joins them is
`repairs.py`. Every step takes a whole block of entries; the entry-by-entry way is walked only where a block holds
something unusual.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.data.findings import Findings
from detection.common.json_stream import read_members
from backbones.common.errors import UserError

LARGEST_AREA = 1e10  # where COCO's widest range of sizes ends: an object above it would count in none
MISSING = np.iinfo(np.int64).min  # stands for an absent or unusable whole number


@dataclass
class Tables:
    """The file's content, in its order.

    image_ids, heights, widths int64 (M,): a size of 0 stands for an absent one. names: M file names. annotation_ids
    (`MISSING` if absent), image_of, category_of int64 (T,); boxes float64 (T, 4) as x, y, width, height; crowds bool
    (T,); areas float64 (T,). categories: (id, name) as the file lists them.
    """

    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    names: list[str]
    annotation_ids: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    boxes: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray
    categories: list[tuple[int, str]]


def read_tables(path: Path, findings: Findings) -> Tables:
    """Reads a COCO annotation file, adding to `findings`; entries of a refused kind hold placeholders.

    Raises:
        UserError: the file cannot be read, is no JSON object, or `images`, `annotations` or `categories` is no list.
    """
    names: list[str] = []
    images = [_images([], names, findings)]
    annotations = [_annotations([], findings)]
    categories: list[tuple[int, str]] = []
    annotations_listed = False
    with _collector_paused():
        for member, value in read_members(path, outlines="segmentation"):
            if member not in ("images", "annotations", "categories"):
                continue
            if not isinstance(value, list):
                raise UserError(f"{path}: {member!r} is not a list")
            block = _objects(value, member, findings)
            if member == "images":
                images.append(_images(block, names, findings))
            elif member == "annotations":
                annotations_listed = True
                annotations.append(_annotations(block, findings))
            else:
                categories.extend(_categories(block, findings))
    findings.add("images_missing", int(not names))
    findings.add("categories_missing", int(not categories))
    findings.add("annotations_missing", int(not annotations_listed))
    image_ids, heights, widths = (np.concatenate(column) for column in zip(*images, strict=True))
    ids, image_of, category_of, boxes, crowds, areas = (
        np.concatenate(column) for column in zip(*annotations, strict=True)
    )
    return Tables(image_ids, heights, widths, names, ids, image_of, category_of, boxes, crowds, areas, categories)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps the garbage collector from walking every object again and again for the sake of short-lived dicts."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _objects(block: list[Any], member: str, findings: Findings) -> list[dict[str, Any]]:
    objects = [entry for entry in block if type(entry) is dict]
    if len(objects) < len(block):
        strangers = [f"{entry!r:.40} in {member!r}" for entry in block if type(entry) is not dict]
        findings.add("entry_not_object", len(strangers), strangers)
    return objects


def _images(
    block: list[dict[str, Any]], names: list[str], findings: Findings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, heights, widths) of a block; the file names are added to `names`."""

    def name_of(row: int) -> str:
        return f"image {block[row].get('id')!r:.40}"

    ids = _whole_numbers(
        [entry.get("id") for entry in block], name_of, findings, "image_id_malformed", "image_id_malformed"
    )
    for row, entry in enumerate(block):
        name: Any = entry.get("file_name")
        if not _is_file_name(name):
            findings.add("image_name_malformed", 1, [f"{name_of(row)}: {name!r:.40}"])
            name = "?"
        names.append(name)
    sizes = []
    for side in ("height", "width"):
        column = _whole_numbers([entry.get(side) for entry in block], name_of, findings, None, "size_malformed")
        column[column == MISSING] = 0
        _add_rows(findings, "size_malformed", (column < 0) | (column > np.iinfo(np.int32).max), name_of)
        sizes.append(column)
    return ids, sizes[0], sizes[1]


def _annotations(block: list[dict[str, Any]], findings: Findings) -> tuple[np.ndarray, ...]:
    """(ids, image ids, category ids, boxes, crowds, areas) of a block."""

    def name_of(row: int) -> str:
        return f"annotation {block[row].get('id')!r:.40} of image {block[row].get('image_id')!r:.40}"

    def whole(key: str, missing: str | None, malformed: str) -> np.ndarray:
        return _whole_numbers([entry.get(key) for entry in block], name_of, findings, missing, malformed)

    ids = whole("id", "annotation_id_missing", "annotation_id_malformed")
    image_of = whole("image_id", "annotation_image_malformed", "annotation_image_malformed")
    category_of = whole("category_id", "annotation_category_malformed", "annotation_category_malformed")
    crowds = whole("iscrowd", "crowd_missing", "crowd_malformed")
    crowds[crowds == MISSING] = 0
    _add_rows(findings, "crowd_malformed", (crowds != 0) & (crowds != 1), name_of)
    boxes = _boxes([entry.get("bbox") for entry in block], name_of, findings)
    areas = np.array([_area(entry.get("area")) for entry in block], dtype=np.float64)
    unknown = np.isnan(areas)
    _add_rows(findings, "area_missing", unknown, name_of)
    with np.errstate(over="ignore", invalid="ignore"):
        areas[unknown] = np.minimum(boxes[unknown, 2] * boxes[unknown, 3], LARGEST_AREA)
    _add_rows(findings, "ignore_flag", np.array([bool(entry.get("ignore")) for entry in block], dtype=bool), name_of)
    return ids, image_of, category_of, boxes, crowds.astype(bool), areas


def _categories(block: list[dict[str, Any]], findings: Findings) -> list[tuple[int, str]]:
    def name_of(row: int) -> str:
        return f"category {block[row].get('id')!r:.40} named {block[row].get('name')!r:.40}"

    ids = _whole_numbers(
        [entry.get("id") for entry in block], name_of, findings, "category_id_malformed", "category_id_malformed"
    )
    categories = []
    for row, (number, entry) in enumerate(zip(ids.tolist(), block, strict=True)):
        name = entry.get("name")
        if type(name) is not str or not name:
            findings.add("category_name_missing", 1, [name_of(row)])
            name = str(number)
        categories.append((number, name))
    return categories


def _add_rows(findings: Findings, kind: str, rows: np.ndarray, name_of: Callable[[int], str]) -> None:
    """Adds the rows of a mask to the findings."""
    found = np.flatnonzero(rows)
    findings.add(kind, len(found), (name_of(row) for row in found.tolist()))


def _is_file_name(name: Any) -> bool:
    try:
        return type(name) is str and name != "" and b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _area(value: Any) -> float:
    """The area as a number, NaN where it is absent or cannot be one."""
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        return math.nan
    return float(value) if value < 1e300 else math.nan  # a whole number of 400 digits is no float


def _whole_numbers(
    values: Sequence[Any], name_of: Callable[[int], str], findings: Findings, missing: str | None, malformed: str
) -> np.ndarray:
    """A column as int64; what is null, absent or unusable becomes `MISSING`.

    Null and absent are added to the findings as the kind `missing` (None: not at all), the unusable as `malformed`.
    """
    if set(map(type, values)) <= {int}:
        with contextlib.suppress(OverflowError):
            return np.array(values, dtype=np.int64)
    result = np.full(len(values), MISSING, dtype=np.int64)
    for row, value in enumerate(values):
        number = _whole_number(value)
        if number is not None:
            result[row] = number
            repair = "id_as_text" if type(value) is str else "id_as_float" if type(value) is float else None
            if repair:
                findings.add(repair, 1, [name_of(row)])
        elif value is not None:
            findings.add(malformed, 1, [name_of(row)])
        elif missing is not None:
            findings.add(missing, 1, [name_of(row)])
    return result


def _whole_number(value: Any) -> int | None:
    """`value` as an int64 if it stands for one beyond doubt: 7, 7.0, "7" or true."""
    if type(value) is str and len(value) <= 24:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    if type(value) in (int, bool) and MISSING < value <= np.iinfo(np.int64).max:
        return int(value)
    return None


def _boxes(values: list[Any], name_of: Callable[[int], str], findings: Findings) -> np.ndarray:
    """Boxes as float64 (n, 4); those that are not four numbers become zeros."""
    if set(map(type, values)) <= {list} and set(map(len, values)) <= {4}:
        with contextlib.suppress(ValueError):  # lists of different lengths within
            array = np.array(values)
            if array.dtype.kind in "if" and array.size == 4 * len(values):
                return array.reshape(-1, 4).astype(np.float64)
    boxes = np.zeros((len(values), 4))
    for row, value in enumerate(values):
        if type(value) is not list or len(value) != 4:
            findings.add("box_malformed", 1, [f"{name_of(row)}: {value!r:.60}"])
            continue
        try:
            boxes[row] = [float(number) for number in value]
        except (TypeError, ValueError, OverflowError):
            boxes[row] = 0.0
            findings.add("box_malformed", 1, [f"{name_of(row)}: {value!r:.60}"])
            continue
        if any(type(number) is str for number in value):
            findings.add("box_as_text", 1, [name_of(row)])
    return boxes
