"""Detections as an array ↔ a file in COCO's results format.

The array: float64 (D, 7), a row each detection: image_id, x, y, w, h, score, category_id; boxes in pixels of the
original image. The file: a JSON list of `{"image_id", "category_id", "bbox": [x, y, w, h], "score"}`.

Boxes are written to a thousandth of a pixel: finer than any annotation, half the bytes. Scores are written in full, so
that a file gives the order of the array it came from. `rounded` is what a file will hold: evaluate that to get the
file's figures to the last digit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection.evaluation.json_values import LARGEST_ID, is_box, is_finite_number, plain_boxes, plain_numbers, short

COLUMNS = 7
BOX_DECIMALS = 3
_ROWS_AT_A_TIME = 10_000
_WINDOW = 1 << 22  # characters read at a time
_LONGEST_ENTRY = 1 << 16  # characters; longer ones cost memory, not more
_GAP = re.compile(r"\}\s*,\s*\{")  # between two entries


def checked(detections: np.ndarray, source: str = "the detections") -> np.ndarray:
    """The detections as float64 (D, 7), after a check of every row.

    Raises:
        UserError: wrong shape; an id that is not a whole number; a box or score that is NaN or infinite (pycocotools
            accepts a NaN score and gives figures that mean nothing); a negative width or height. The message names the
            image id.
    """
    detections = np.asarray(detections, dtype=np.float64)
    if detections.size == 0:
        return np.zeros((0, COLUMNS))
    if detections.ndim != 2 or detections.shape[1] != COLUMNS:
        raise UserError(
            f"{source}: expected rows of image_id, x, y, w, h, score, category_id, "
            f"got an array of shape {tuple(detections.shape)}"
        )
    ids = detections[:, [0, 6]]
    whole = np.isfinite(ids) & (ids == np.round(ids)) & (np.abs(ids) <= LARGEST_ID)
    _refuse(~whole.all(axis=1), "an id that is no whole number", detections, source)
    _refuse(~np.isfinite(detections[:, 5]), "a score that is not finite", detections, source)
    _refuse(~np.isfinite(detections[:, 1:5]).all(axis=1), "a box that is not finite", detections, source)
    _refuse((detections[:, 3] < 0) | (detections[:, 4] < 0), "a box of negative width or height", detections, source)
    return detections


def _refuse(bad: np.ndarray, what: str, detections: np.ndarray, source: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        image_id, *box, score, category_id = detections[row].tolist()
        raise UserError(
            f"{source}: {what} in row {row} (image id {image_id:.15g}, category id {category_id:.15g}, box {box}, "
            f"score {score}), {int(bad.sum())} such rows in all: the network that gave them is broken, or the file is"
        )


def rounded(detections: np.ndarray) -> np.ndarray:
    """The detections as a results file holds them.

    Sorted by image id (the order within an image is kept), boxes rounded to a thousandth of a pixel.
    """
    detections = checked(detections)
    detections = detections[np.argsort(detections[:, 0], kind="stable")]
    detections[:, 1:5] = np.round(detections[:, 1:5], BOX_DECIMALS)
    return detections


def write_results(path: Path | str, detections: np.ndarray) -> None:
    """Writes detections (D, 7) as a COCO results file; `path` is either the whole new file or what it was before.

    The file does not depend on the order in which images were evaluated: rows are sorted by image id.

    Raises:
        UserError: see `checked`.
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


def read_results(path: Path | str) -> np.ndarray:
    """Reads a COCO results file of boxes into an array (D, 7), in the file's order.

    Other fields (`segmentation` …) are not looked at. The file is read in windows of some megabytes; one that is
    unusual or broken, whole, entry by entry.

    Raises:
        UserError: not JSON, not a list, or an entry without the four fields or with values that cannot be meant; the
            message names its position.
    """
    try:
        rows = [_plain_rows(block) for block in _blocks(Path(path))]
    except (OSError, ValueError, OverflowError, RecursionError, TypeError, KeyError):
        rows = [_rows_one_by_one(path)]  # it says what is wrong, and where
    return checked(np.concatenate(rows), str(path))


def _blocks(path: Path) -> Iterator[Any]:
    """The content of a file that holds one list, in several lists.

    Raises:
        OSError, ValueError, RecursionError: not so, or the text is such that it cannot be cut between two entries.
    """
    with path.open(encoding="utf-8-sig") as file:
        text = ""
        while more := file.read(_WINDOW):
            text += more
            gaps = list(_GAP.finditer(text, max(0, len(text) - _LONGEST_ENTRY)))
            if gaps:
                yield json.loads(text[: gaps[-1].start() + 1] + "]")
                text = "[" + text[gaps[-1].end() - 1 :]
        yield json.loads(text)


def _plain_rows(block: Any) -> np.ndarray:
    """A list of entries as rows (n, 7).

    Raises:
        ValueError, OverflowError, TypeError, KeyError: an entry that is not as it should be.
    """
    if not isinstance(block, list):
        raise ValueError
    image_ids, scores, category_ids = (
        plain_numbers([entry[key] for entry in block]) for key in ("image_id", "score", "category_id")
    )
    return np.column_stack([image_ids, plain_boxes([entry["bbox"] for entry in block]), scores, category_ids])


def _rows_one_by_one(path: Path | str) -> np.ndarray:
    content = _whole_content(Path(path))
    if not isinstance(content, list):
        raise UserError(
            f"{path} is not a COCO results file: it must hold a list of detections, not {type(content).__name__}"
        )
    rows = [_row(entry, position, path) for position, entry in enumerate(content)]
    return np.array(rows, dtype=np.float64).reshape(-1, COLUMNS)


def _whole_content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
        raise UserError(f"{path} is not a whole JSON file ({error}): write or download it again") from error


def _row(entry: Any, position: int, path: Path | str) -> tuple[float, ...]:
    place = f"{path}: entry number {position} (from 0)"
    if not isinstance(entry, dict):
        raise UserError(f"{place} is not an object but {type(entry).__name__}")
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise UserError(
            f"{place} lacks {', '.join(missing)}: results of boxes carry image_id, category_id, bbox and score"
        )
    box = entry["bbox"]
    place += f" (image id {short(entry['image_id'])})"
    if not is_box(box):
        raise UserError(f"{place}: bbox must be four finite numbers x, y, width, height, not {short(box)}")
    for key in ("image_id", "category_id", "score"):
        if not is_finite_number(entry[key]):
            raise UserError(f"{place}: {key} must be a finite number, not {short(entry[key])}")
    return (entry["image_id"], *box, entry["score"], entry["category_id"])
