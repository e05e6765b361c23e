"""Detections as an array ↔ a file in COCO's results format.

The array: float64 (D, 7), a row each detection: image_id, x, y, w, h, score, category_id; boxes in pixels of the
original image. The file: a JSON list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`.

Scores are written with all digits, so that sorting by score gives the same order as in the array.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection.common.json_columns import box_column, number_column
from detection.common.json_rows import read_number_rows
from detection.common.json_stream import read_list
from detection.common.shortened import short
from detection.evaluation.results import COLUMNS, checked, rounded

_ROWS_AT_A_TIME = 10_000


def write_results(path: str | os.PathLike[str], detections: np.ndarray) -> None:
    """Writes detections (D, 7) as a COCO results file; `path` is replaced atomically.

    The file does not depend on the order in which images were evaluated: rows are sorted by image id.

    Raises:
        UserError: see `detection.evaluation.results.checked`.
        CannotWrite: the folder cannot be written.
    """
    detections = rounded(detections)
    with atomic_write(path) as temporary, temporary.open("w", encoding="ascii") as file:
        file.write("[")
        for start in range(0, len(detections), _ROWS_AT_A_TIME):
            rows = detections[start : start + _ROWS_AT_A_TIME].tolist()
            file.write(",\n" if start else "\n")
            file.write(",\n".join(map(_entry, rows)))
        file.write("\n]\n")


def _entry(row: list[float]) -> str:
    image_id, x, y, width, height, score, category_id = row
    # repr of a float is the shortest text that reads back as the same number
    return (
        f'{{"image_id": {int(image_id)}, "category_id": {int(category_id)}, '
        f'"bbox": [{x!r}, {y!r}, {width!r}, {height!r}], "score": {score!r}}}'
    )


def read_results(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a COCO results file of boxes into an array (D, 7), in the file's order.

    Other fields (`segmentation` …) are ignored. A file whose entries are alike is parsed by array operations. Others
    are read in blocks; only in a block with an unusual value are the entries checked one by one.

    Raises:
        UserError: not JSON, not a list, or an entry without the four fields or with unusable values; the message names
            its position.
    """
    alike = read_number_rows(Path(path), {"image_id": None, "bbox": 4, "score": None, "category_id": None})
    if alike is not None:
        return checked(alike, str(path))
    parts = [np.zeros((0, COLUMNS))]
    position = 0
    for block in read_list(Path(path)):
        rows = _usual_rows(block)
        if rows is None:
            entries = [_row(entry, f"{path}: entry number {position + i} (from 0)") for i, entry in enumerate(block)]
            rows = np.array(entries, dtype=np.float64).reshape(-1, COLUMNS)
        parts.append(rows)
        position += len(block)
    return checked(np.concatenate(parts), str(path))


def _usual_rows(block: list[Any]) -> np.ndarray | None:
    """A block of entries as rows (n, 7); None if an entry lacks a field or has a value that is not a finite number."""
    try:
        columns = [number_column([entry[key] for entry in block]) for key in ("image_id", "score", "category_id")]
        boxes = box_column([entry["bbox"] for entry in block])
    except (TypeError, KeyError, IndexError):
        return None
    image_ids, scores, category_ids = columns
    if image_ids is None or scores is None or category_ids is None or boxes is None:
        return None
    rows = np.column_stack([image_ids, boxes, scores, category_ids])
    return rows if np.isfinite(rows).all() else None


def _row(entry: Any, place: str) -> tuple[float, ...]:
    if not isinstance(entry, dict):
        raise UserError(f"{place} is not an object but {type(entry).__name__}")
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise UserError(
            f"{place} lacks {', '.join(missing)}: results of boxes carry image_id, category_id, bbox and score"
        )
    place += f" (image id {short(entry['image_id'])})"
    boxes = box_column([entry["bbox"]])
    if boxes is None or not np.isfinite(boxes).all():
        raise UserError(f"{place}: bbox must be four finite numbers x, y, width, height, not {short(entry['bbox'])}")
    numbers = {}
    for key in ("image_id", "category_id", "score"):
        column = number_column([entry[key]])
        if column is None or not np.isfinite(column).all():
            raise UserError(f"{place}: {key} must be a finite number, not {short(entry[key])}")
        numbers[key] = float(column[0])
    return (numbers["image_id"], *boxes[0].tolist(), numbers["score"], numbers["category_id"])
