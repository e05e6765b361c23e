"""Boxes by their corners, as Pascal VOC and CSV files have them → x, y, width, height in pixels, and checked sizes.

VOC counts pixels from 1, and both corners lie within the box ("the top-left pixel in the image has coordinates (1,1)",
the development kit; its `VOCevaldet.m` measures a width as xmax − xmin + 1). Such a box covers xmin − 1 to xmax in our
coordinates. Many exporters write edges instead, from 0: a file that has a corner at 0 or at a fraction of a pixel
cannot be VOC's, and its corners are taken as edges. The convention is one for a whole set: if the corners of one split
are edges, those of the others are, too.

Shapes: T boxes, M images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from detection.data.findings import Example, Findings
from detection.data.images import image_sizes

_WITHIN = 1.0  # pixels by which boxes may reach over the edge of the image that they fit


def must_be_edges(corners: np.ndarray) -> np.ndarray:
    """Whether each box has a corner where VOC has none, at 0 or at a fraction of a pixel: corners (T, 4) → bool (T,).

    >>> must_be_edges(np.array([[1, 1, 5, 5], [0, 3, 5, 5], [2, 3, 5.5, 5]])).tolist()
    [False, True, True]
    """
    with np.errstate(invalid="ignore"):
        edges = (np.minimum(corners[:, :2], corners[:, 2:]) < 1).any(axis=1) | (corners % 1 != 0).any(axis=1)
    finite: np.ndarray = np.isfinite(corners).all(axis=1)
    return edges & finite


def boxes_of_corners(
    corners: np.ndarray,
    first_pixel: int | None,
    findings: Findings,
    place_of: Callable[[int], Example],
    *,
    edges_in_set: bool = False,
) -> np.ndarray:
    """Corners float64 (T, 4), xmin, ymin, xmax, ymax as a file counts them → boxes (T, 4) as x, y, width, height.

    first_pixel: 1: VOC's convention; 0: the corners are edges; None: 1, unless a corner is at 0 or at a fraction.
    edges_in_set: whether another split of the set has such a corner, which decides for this one, too.

    Example: VOC's 81, 88, 522, 408 is x 80, y 87, width 442, height 321.
    """
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    swapped = (low != corners[:, :2]).any(axis=1) & np.isfinite(corners).all(axis=1)

    def object_at(row: int) -> Example:
        return Example(place_of(row), place_of(row).image, [*low[row], *(high - low)[row]])

    _add(findings, "box_corners_swapped", swapped, object_at)
    if first_pixel is None:
        edges = must_be_edges(corners)
        _add(findings, "corners_are_edges", edges, object_at)
        if edges_in_set and not edges.any():
            findings.add("corners_are_edges_elsewhere", len(corners))
        first_pixel = 0 if edges_in_set or edges.any() else 1
    x0y0 = low - first_pixel
    return np.concatenate([x0y0, high - x0y0], axis=1)


def checked_sizes(
    root: Path,
    names: Sequence[str],
    stated: tuple[np.ndarray, np.ndarray],
    image_rows: np.ndarray,
    boxes: np.ndarray,
    findings: Findings,
    *,
    has_sizes: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths int64 (M,): as stated, or the file's where none is stated, or where another is stated though
    the image's boxes fit the file.

    image_rows (T,), boxes (T, 4): each box's image, and x, y, width, height. has_sizes: whether sizes are expected in
    the labels, so that absent ones are counted.
    """
    heights, widths = (side.copy() for side in stated)
    found = image_sizes([root / name for name in names])
    there = found[:, 0] > 0
    absent = there & ((heights <= 0) | (widths <= 0))
    ends = np.zeros((len(names), 2))
    finite = np.isfinite(boxes).all(axis=1)
    np.maximum.at(ends, image_rows[finite], (boxes[:, :2] + boxes[:, 2:])[finite])
    other = there & ~absent & ((heights != found[:, 0]) | (widths != found[:, 1]))
    as_stored = (found[:, 2] >= 5) & (heights == found[:, 1]) & (widths == found[:, 0])
    other &= ~as_stored & (ends <= found[:, 1::-1] + _WITHIN).all(axis=1)
    _add(findings, "size_missing", absent & has_sizes, lambda i: Example(names[i], names[i]))
    _add(
        findings, "size_corrected", other,
        lambda i: Example(f"{names[i]}: {widths[i]}×{heights[i]}, the file {found[i, 1]}×{found[i, 0]}", names[i]),
    )  # fmt: skip
    of_file = absent | other
    return np.where(of_file, found[:, 0], heights), np.where(of_file, found[:, 1], widths)


def _add(findings: Findings, kind: str, rows: np.ndarray, place_of: Callable[[int], str]) -> None:
    found = np.flatnonzero(rows)
    findings.add(kind, len(found), (place_of(row) for row in found.tolist()))
