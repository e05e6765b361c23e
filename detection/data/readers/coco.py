"""A COCO annotation file → tables of its images, annotations and categories; what is repaired is counted.

The one place that knows the format. Single entries are judged here (is the id a whole number, are there four numbers in
the box?); what joins them is judged in `detection.data.repairs`. Every step takes a whole block of entries; they are
looked at one by one only where a block holds something unusual.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.common.json_columns import LARGEST_ID, box_column, number_column, shortened
from detection.common.json_stream import read_members
from detection.data.findings import Findings
from detection.data.tables import LARGEST_AREA, MISSING, Tables

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,4000}(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)
_LARGEST_INT64 = int(np.iinfo(np.int64).max)
_LARGEST_SIDE = int(np.iinfo(np.int32).max)

NameOf = Callable[[int], str]  # row of a block → what a message calls it


def read_tables(source: Path | Mapping[str, Any], findings: Findings, *, of_files: bool = True) -> Tables:
    """Reads a COCO annotation file, or the dict that such a file holds, adding to `findings`; entries of a refused kind
    hold placeholders. Of the objects only the boxes are read; outlines are skipped.

    of_files: whether the image files will be looked for. If not, an image needs no name and no size, and neither is
    judged.

    Raises:
        UserError: the file cannot be read, is no JSON object, or `images`, `annotations` or `categories` is no list.
    """
    members = read_members(source, outlines="segmentation") if isinstance(source, Path) else _plain(source).items()
    names: list[str] = []
    images = [_images([], names, findings)]
    annotations = [_annotations([], findings)]
    categories: list[tuple[int, str]] = []
    annotations_listed = False
    with _collector_paused():
        for member, value in members:
            if member not in ("images", "annotations", "categories"):
                continue
            if not isinstance(value, list):
                place = source if isinstance(source, Path) else "the annotations"
                raise UserError(f"{place}: {member!r} is not a list")
            block = _objects(value, member, findings)
            if member == "images":
                images.append(_images(block, names, findings, findings if of_files else Findings()))
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


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file with this content would be read as: lists for tuples, floats for NumPy's."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(content)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the annotations cannot be written as JSON ({error}): use plain numbers and lists") from None
    return plain


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
        strangers = [f"{shortened(entry)} in {member!r}" for entry in block if type(entry) is not dict]
        findings.add("entry_not_object", len(strangers), strangers)
    return objects


def _images(
    block: list[dict[str, Any]], names: list[str], findings: Findings, of_files: Findings | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, heights, widths) of a block; the file names are added to `names`.

    of_files: takes what is found about names and sizes; by default `findings` do.
    """
    of_files = findings if of_files is None else of_files

    def name_of(row: int) -> str:
        return f"image {shortened(block[row].get('id'))}"

    ids = _ids([entry.get("id") for entry in block], name_of, findings, "image_id_malformed", "image_id_malformed")
    for row, entry in enumerate(block):
        name: Any = entry.get("file_name")
        if not _is_file_name(name):
            of_files.add("image_name_malformed", 1, [f"{name_of(row)}: {shortened(name)}"])
            name = "?"
        names.append(name)
    sizes = []
    for side in ("height", "width"):
        column = _whole_numbers(
            [entry.get(side) for entry in block], name_of, of_files, None, "size_malformed", _LARGEST_SIDE
        )
        column[column == MISSING] = 0
        _add_rows(of_files, "size_malformed", column < 0, name_of)
        sizes.append(column)
    return ids, sizes[0], sizes[1]


def _annotations(block: list[dict[str, Any]], findings: Findings) -> tuple[np.ndarray, ...]:
    """(ids, image ids, category ids, boxes, crowds, areas) of a block."""

    def name_of(row: int) -> str:
        return f"annotation {shortened(block[row].get('id'))} of image {shortened(block[row].get('image_id'))}"

    def column(key: str) -> list[Any]:
        return [entry.get(key) for entry in block]

    ids = _whole_numbers(column("id"), name_of, findings, "annotation_id_missing", "annotation_id_malformed")
    malformed = "annotation_image_malformed"
    image_of = _ids(column("image_id"), name_of, findings, malformed, malformed)
    malformed = "annotation_category_malformed"
    category_of = _ids(column("category_id"), name_of, findings, malformed, malformed)
    crowds = _crowds(column("iscrowd"), name_of, findings)
    boxes = _boxes(column("bbox"), name_of, findings)
    areas = _areas(column("area"), name_of, findings)
    unknown = np.isnan(areas)
    _add_rows(findings, "area_missing", unknown, name_of)
    with np.errstate(over="ignore", invalid="ignore"):
        sides = np.maximum(boxes[unknown, 2:], 0)
        areas[unknown] = np.minimum(sides[:, 0] * sides[:, 1], LARGEST_AREA)
    _add_rows(findings, "ignore_flag", np.array([bool(entry.get("ignore")) for entry in block], dtype=bool), name_of)
    return ids, image_of, category_of, boxes, crowds, areas


def _categories(block: list[dict[str, Any]], findings: Findings) -> list[tuple[int, str]]:
    def name_of(row: int) -> str:
        return f"category {shortened(block[row].get('id'))} named {shortened(block[row].get('name'))}"

    malformed = "category_id_malformed"
    ids = _ids([entry.get("id") for entry in block], name_of, findings, malformed, malformed)
    categories = []
    for row, (number, entry) in enumerate(zip(ids.tolist(), block, strict=True)):
        name = entry.get("name")
        if type(name) is not str or not name:
            findings.add("category_name_missing", 1, [name_of(row)])
            name = str(number)
        categories.append((number, name))
    return categories


def _add_rows(findings: Findings, kind: str, rows: np.ndarray, name_of: NameOf) -> None:
    """Adds the rows of a mask to the findings."""
    found = np.flatnonzero(rows)
    findings.add(kind, len(found), (name_of(row) for row in found.tolist()))


def _is_file_name(name: Any) -> bool:
    try:
        return type(name) is str and name != "" and b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _ids(values: Sequence[Any], name_of: NameOf, findings: Findings, missing: str, malformed: str) -> np.ndarray:
    """A column of ids of images or categories, int64; see `_whole_numbers`."""
    return _whole_numbers(values, name_of, findings, missing, malformed, LARGEST_ID, "id_too_large")


def _whole_numbers(
    values: Sequence[Any],
    name_of: NameOf,
    findings: Findings,
    missing: str | None,
    malformed: str,
    largest: int = _LARGEST_INT64,
    too_large: str | None = None,
) -> np.ndarray:
    """A column as int64; what is null, absent or unusable becomes `MISSING`.

    Null and absent are added to the findings as the kind `missing` (None: not at all), the unusable as `malformed`,
    those beyond `largest` in magnitude as `too_large` (None: as `malformed`).
    """
    if set(map(type, values)) <= {int}:
        with contextlib.suppress(OverflowError):
            numbers = np.array(values, dtype=np.int64)
            if (numbers <= largest).all() and (numbers >= -largest).all():
                return numbers
    result = np.full(len(values), MISSING, dtype=np.int64)
    for row, value in enumerate(values):
        number = _whole_number(value)
        if number is None:
            kind = malformed if value is not None else missing
        elif abs(number) > largest:
            kind = too_large or malformed
        else:
            result[row] = number
            kind = {str: "id_as_text", float: "id_as_float"}.get(type(value))
        if kind is not None:
            findings.add(kind, 1, [name_of(row)])
    return result


def _whole_number(value: Any) -> int | None:
    """`value` as an int if it stands for one beyond doubt: 7, 7.0 or "7". True and false do not.

    >>> [_whole_number(value) for value in (7, 7.0, " 007.0", 7.5, "seven", True)]
    [7, 7, 7, None, None, None]
    """
    if type(value) is str:
        return int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    if type(value) is float:
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


def _number(value: Any) -> float | None:
    """`value` as a float if it is a number, or a text that spells one, and neither NaN nor infinite by overflow."""
    if type(value) is str and not _NUMBER.fullmatch(value):
        return None
    if type(value) not in (int, float, str):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _crowds(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """`iscrowd` as bool (n,)."""
    if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
        return np.array(values, dtype=bool)
    numbers = np.zeros(len(values), dtype=np.int64)
    booleans = np.array([type(value) is bool for value in values], dtype=bool)
    numbers[booleans] = [value for value in values if type(value) is bool]
    _add_rows(findings, "crowd_as_boolean", booleans, name_of)
    rest = np.flatnonzero(~booleans)
    numbers[rest] = _whole_numbers(
        [values[row] for row in rest.tolist()],
        lambda row: name_of(int(rest[row])),
        findings,
        "crowd_missing",
        "crowd_malformed",
    )
    numbers[numbers == MISSING] = 0
    _add_rows(findings, "crowd_malformed", (numbers != 0) & (numbers != 1), name_of)
    return numbers == 1


def _boxes(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """Boxes as float64 (n, 4); those that are not four numbers become zeros."""
    usual = box_column(values)
    if usual is not None:
        return usual
    boxes = np.zeros((len(values), 4))
    for row, value in enumerate(values):
        numbers = [_number(number) for number in value] if type(value) is list and len(value) == 4 else [None]
        if None in numbers:
            findings.add("box_malformed", 1, [f"{name_of(row)}: {shortened(value)}"])
            continue
        boxes[row] = numbers
        if str in map(type, value):
            findings.add("box_as_text", 1, [name_of(row)])
    return boxes


def _areas(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """Areas as float64 (n,), NaN for what is absent or cannot be one."""
    areas = number_column(values)
    if areas is None:
        numbers: Iterable[float | None] = map(_number, values)
        areas = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        texts = np.array([type(value) is str for value in values], dtype=bool) & (areas >= 0) & np.isfinite(areas)
        _add_rows(findings, "area_as_text", texts, name_of)
    areas[~((areas >= 0) & np.isfinite(areas))] = np.nan
    return areas
