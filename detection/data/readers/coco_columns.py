"""A column of a COCO file's values → an array; repaired and unusable values are counted.

Shapes: n entries of a block. A column without unusual values is converted as a whole; otherwise its values are
converted one by one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from detection.common.json_columns import LARGEST_ID, box_column, number_column
from detection.common.json_rows import number_rows
from detection.common.shortened import short
from detection.data.findings import Findings
from detection.data.tables import MISSING

NameOf = Callable[[int], str]  # row of a block → its name in messages

PLACEHOLDER = (0.0, 0.0, 1.0, 1.0)  # stands for an unusable box; causes no further findings
LARGEST_INT64 = int(np.iinfo(np.int64).max)
LARGEST_SIDE = int(np.iinfo(np.int32).max)

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,4000}(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*", re.ASCII)


def add_rows(findings: Findings, kind: str, rows: np.ndarray, name_of: NameOf) -> None:
    """Adds the rows of a mask to the findings."""
    found = np.flatnonzero(rows)
    findings.add(kind, len(found), (name_of(row) for row in found.tolist()))


def plain_annotations(text: str) -> tuple[np.ndarray, ...] | None:
    """The text of a block of annotations, `{…}, … {…}` → (ids, image ids, category ids, boxes, crowds, areas), if they
    are alike and nothing about them is to be counted; else None.

    It makes no object for an entry, and takes half of the time of a file.
    """
    if '"ignore"' in text:
        return None
    fields = {"id": None, "image_id": None, "category_id": None, "iscrowd": None, "bbox": 4, "area": None}
    rows = number_rows(text.encode(), fields, whole=("id", "image_id", "category_id", "iscrowd"))
    if rows is None or (rows[:, 3] > 1).any() or not (rows[:, 8] >= 0).all():
        return None
    ids, image_of, category_of, crowds = rows[:, :4].astype(np.int64).T
    return ids, image_of, category_of, rows[:, 4:8], crowds == 1, rows[:, 8]


def ids(values: Sequence[Any], name_of: NameOf, findings: Findings, malformed: str) -> np.ndarray:
    """Ids of images or categories, int64 (n,); see `whole_numbers`. An absent one counts as `malformed`."""
    return whole_numbers(values, name_of, findings, malformed, malformed, LARGEST_ID, "id_too_large")


def whole_numbers(
    values: Sequence[Any],
    name_of: NameOf,
    findings: Findings,
    missing: str,
    malformed: str,
    largest: int = LARGEST_INT64,
    too_large: str | None = None,
) -> np.ndarray:
    """Whole numbers as int64 (n,); null, absent and unusable values become `MISSING`.

    Null and absent values are added to the findings as the kind `missing`, unusable ones as `malformed`, those beyond
    `largest` in magnitude as `too_large` (None: as `malformed`).
    """
    if set(map(type, values)) <= {int}:
        with contextlib.suppress(OverflowError):
            numbers = np.fromiter(values, dtype=np.int64, count=len(values))
            if (numbers <= largest).all() and (numbers >= -largest).all():
                return numbers
    result = np.full(len(values), MISSING, dtype=np.int64)
    for row, value in enumerate(values):
        number = _whole_number(value)
        if number is None:
            kind: str | None = malformed if value is not None else missing
        elif abs(number) > largest:
            kind = too_large or malformed
        else:
            result[row] = number
            kind = {str: "id_as_text", float: "id_as_float"}.get(type(value))
        if kind is not None:
            findings.add(kind, 1, [name_of(row)])
    return result


def sides(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """Heights or widths as int64 (n,): 0 for an absent one, −1 for an unusable one."""
    given = [row for row, value in enumerate(values) if value is not None]
    malformed = "size_malformed"
    found = whole_numbers(
        [values[row] for row in given], lambda row: name_of(given[row]), findings, malformed, malformed, LARGEST_SIDE
    )
    add_rows(findings, malformed, (found < 0) & (found != MISSING), lambda row: name_of(given[row]))
    result = np.zeros(len(values), dtype=np.int64)
    result[given] = np.maximum(found, -1)
    return result


def crowds(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """`iscrowd` as bool (n,)."""
    if set(map(type, values)) <= {int} and set(values) <= {0, 1}:
        return np.array(values, dtype=bool)
    booleans = np.array([type(value) is bool for value in values], dtype=bool)
    add_rows(findings, "crowd_as_boolean", booleans, name_of)
    rest = np.flatnonzero(~booleans).tolist()
    numbers = np.array([int(value is True) for value in values], dtype=np.int64)
    numbers[rest] = whole_numbers(
        [values[row] for row in rest], lambda row: name_of(rest[row]), findings, "crowd_missing", "crowd_malformed"
    )
    numbers[numbers == MISSING] = 0
    add_rows(findings, "crowd_malformed", (numbers != 0) & (numbers != 1), name_of)
    return numbers == 1


def boxes(values: Sequence[Any], name_of: NameOf, findings: Findings, elsewhere: Sequence[int]) -> np.ndarray:
    """Boxes as float64 (n, 4); a placeholder for those that are not four numbers.

    elsewhere: rows without a box, which is set later.
    """
    usual = box_column(values)
    if usual is not None:
        return usual
    result = np.full((len(values), 4), PLACEHOLDER)
    for row, value in enumerate(values):
        if row in elsewhere:
            continue
        numbers = [_number(number) for number in value] if type(value) is list and len(value) == 4 else [None]
        if None in numbers:
            findings.add("box_malformed", 1, [f"{name_of(row)}: {short(value)}"])
            continue
        result[row] = numbers
        if str in map(type, value):
            findings.add("box_as_text", 1, [name_of(row)])
    return result


def areas(values: Sequence[Any], name_of: NameOf, findings: Findings) -> np.ndarray:
    """Areas as float64 (n,), NaN for absent and unusable ones."""
    result = number_column(values)
    if result is None:
        numbers: Iterable[float | None] = map(_number, values)
        result = np.array([np.nan if number is None else number for number in numbers], dtype=np.float64)
        usable = (result >= 0) & np.isfinite(result)
        add_rows(
            findings, "area_as_text", usable & np.array([type(value) is str for value in values], dtype=bool), name_of
        )
    result[~((result >= 0) & np.isfinite(result))] = np.nan
    add_rows(findings, "area_missing", np.isnan(result), name_of)
    return result


def _whole_number(value: Any) -> int | None:
    """`value` as an int if it is unambiguous: 7, 7.0 or "7". True and false are not.

    >>> [_whole_number(value) for value in (7, 7.0, " 007.0", 7.5, "seven", True)]
    [7, 7, 7, None, None, None]
    """
    if type(value) is str:
        return int(value.partition(".")[0]) if _WHOLE.fullmatch(value) else None
    if type(value) is float:
        return int(value) if value.is_integer() else None
    return value if type(value) is int else None


def _number(value: Any) -> float | None:
    """`value` as a float if it is a number that float64 can hold, or a text that spells one."""
    if type(value) is str and not _NUMBER.fullmatch(value):
        return None
    if type(value) not in (int, float, str):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
