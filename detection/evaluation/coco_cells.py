"""Detections and ground truth → the pairs of a detection and an object that COCO's evaluation may match.

Shapes: D detections, T objects, K categories, P pairs. A *cell* is one class in one image: detections and objects match
only within a cell. Two orders of the detections are needed: by image and class, for the pairs, and by class and score,
for precision. In both, those of a cell are sorted by descending score, and equal scores by input order.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from detection.common.threads import map_in_threads
from detection.evaluation.coco_parameters import IOU_THRESHOLDS
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import (
    descending_order,
    pairs_within,
    places_among,
    ranks_in_order,
    running_sums,
    stable_order,
)

_DETECTIONS_AT_A_TIME = 1 << 15  # to a thread: the arrays of its pairs stay in the processor's cache


@dataclass(frozen=True)
class Detections:
    """The best detections of each cell, up to the largest limit.

    By class and descending score, equal scores by image and input order: starts: int64 (K + 1,), where each class's
    begin; areas: float64 (D,).
    By cell: rows: int64 (D,), rows of the input; places: int64 (D,), places in the other order; cells, ranks (place in
    the cell, from 0): int64 (D,).
    """

    starts: np.ndarray
    areas: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    cells: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True)
class Objects:
    """The objects by cell, those of one in the file's order. cells, classes: int64 (T,); boxes; areas; crowds: bool."""

    cells: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Pairs with at least the lowest threshold's IoU: places in `Objects` and, by cell, in `Detections`, int64, and
    IoU, each (P,). Sorted by object, then by descending score."""

    objects: np.ndarray
    detections: np.ndarray
    overlaps: np.ndarray


_NOTHING = Pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


def ranked(ground_truth: GroundTruth, detections: np.ndarray, most: int) -> Detections:
    """The `most` best detections of each cell."""
    classes = len(ground_truth.category_ids)
    image = places_among(detections[:, 0], ground_truth.image_ids)
    own_class = places_among(detections[:, 6], ground_truth.category_ids)
    rows = stable_order(image)
    rows = rows[descending_order(detections[:, 5][rows])]
    rows = rows[stable_order(own_class[rows])]
    places = stable_order(image[rows])
    by_cell = rows[places]
    cells = (image * classes + own_class)[by_cell]
    ranks = ranks_in_order(cells)
    kept = ranks < most
    if not kept.all():
        by_cell, places, cells, ranks = by_cell[kept], places[kept], cells[kept], ranks[kept]
        is_kept = np.zeros(len(rows), dtype=bool)
        is_kept[places] = True
        rows, places = rows[is_kept], running_sums(is_kept)[places]
    with np.errstate(over="ignore"):
        areas = (detections[:, 3] * detections[:, 4])[rows]
    starts = running_sums(np.bincount(own_class[rows], minlength=classes))
    return Detections(starts, areas, by_cell, places, cells, ranks)


def grouped(ground_truth: GroundTruth) -> Objects:
    """The objects by cell."""
    classes = places_among(ground_truth.object_category_ids, ground_truth.category_ids)
    cells = places_among(ground_truth.object_image_ids, ground_truth.image_ids)
    cells = cells * len(ground_truth.category_ids) + classes
    order = stable_order(cells)
    return Objects(
        cells[order], classes[order], ground_truth.boxes[order], ground_truth.areas[order], ground_truth.crowds[order]
    )


def overlapping_pairs(detections: np.ndarray, found: Detections, objects: Objects) -> Pairs:
    """The pairs of `detections` (see `coco_evaluation.evaluate`), of which `found` are compared with the objects."""
    left, right, top, bottom, areas = _edges(objects.boxes, slice(None))

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def pairs_of(bounds: tuple[int, int]) -> Pairs:
        """Of the detections within the bounds, which hold whole cells."""
        begin, end = bounds
        first, last = np.searchsorted(objects.cells, found.cells[[begin, end - 1]] + [0, 1]).tolist()
        own_left, own_right, own_top, own_bottom, own_areas = _edges(detections[:, 1:5], found.rows[begin:end])
        parts = [_NOTHING]
        for thing, own in pairs_within(objects.cells[first:last], found.cells[begin:end]):
            thing += first
            # In pycocotools' order of operations, so that equal overlaps stay equal. Most boxes of a large cell are
            # apart: they are left out as soon as it shows. So are boxes beyond measure, whose overlap is NaN.
            across = np.minimum(own_right[own], right[thing]) - np.maximum(own_left[own], left[thing])
            near = np.flatnonzero(across > 0)
            thing, own, across = thing[near], own[near], across[near]
            down = np.minimum(own_bottom[own], bottom[thing]) - np.maximum(own_top[own], top[thing])
            near = np.flatnonzero(down > 0)
            thing, own = thing[near], own[near]
            common, area = across[near] * down[near], own_areas[own]
            # with a crowd region, the share of the detection inside it
            overlap = common / np.where(objects.crowds[thing], area, area + areas[thing] - common)
            near = np.flatnonzero(overlap >= IOU_THRESHOLDS[0])
            parts.append(Pairs(thing[near], own[near] + begin, overlap[near]))
        return _joined(parts)

    cuts = np.searchsorted(found.cells, found.cells[::_DETECTIONS_AT_A_TIME]).tolist()  # where cells begin
    bounds = [one for one in pairwise([*cuts, len(found.cells)]) if one[0] < one[1]]
    return _joined([_NOTHING, *map_in_threads(pairs_of, bounds)])


def _joined(parts: list[Pairs]) -> Pairs:
    columns = zip(*((part.objects, part.detections, part.overlaps) for part in parts), strict=True)
    return Pairs(*map(np.concatenate, columns))


@np.errstate(over="ignore")
def _edges(boxes: np.ndarray, rows: np.ndarray | slice) -> tuple[np.ndarray, ...]:
    """Left, right, top, bottom and area of the `rows` of boxes (n, 4) `(x, y, w, h)`, each (rows,)."""
    x, y, width, height = (column[rows] for column in boxes.T)
    return x, x + width, y, y + height, width * height
