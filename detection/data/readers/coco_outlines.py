"""Polygons of COCO's `segmentation` → the box around them, for annotations that have no `bbox`."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from detection.common.json_columns import number_column

CUT = 0  # replaces an outline that was skipped while reading, see `json_stream.read_members`


def has_outline(entry: dict[str, Any]) -> bool:
    """Whether an annotation has polygons, or had some that were skipped."""
    outline = entry.get("segmentation")
    return (type(outline) is int and outline == CUT) or (type(outline) is list and len(outline) > 0)


def box_of_outline(outline: Any) -> np.ndarray | None:
    """The box (x, y, width, height) around polygons, float64 (4,); None if they are no polygons.

    outline: a list of polygons, each a list x0, y0, x1, y1, … of three points or more; or one such polygon by itself.

    >>> box_of_outline([[1, 2, 5, 2, 5, 9]])
    array([1., 2., 4., 7.])
    """
    if type(outline) is not list or not outline:
        return None
    polygons = outline if type(outline[0]) is list else [outline]
    if any(type(polygon) is not list or len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        return None
    numbers = number_column(list(chain.from_iterable(polygons)))
    if numbers is None or not np.isfinite(numbers).all():
        return None
    points = numbers.reshape(-1, 2)
    low = points.min(axis=0)
    return np.concatenate([low, points.max(axis=0) - low])
