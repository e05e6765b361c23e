"""Scored boxes and ground-truth boxes of one image → their matching by COCO's rule.

Shapes: R scored boxes in order of score, G ground-truth boxes, P pairs of one of each that overlap enough. Boxes are
`(x0, y0, x1, y1)`; everything is float64, as in pycocotools.

The rule: in order of score, each box is matched to the unmatched ground-truth box that it overlaps most, among those
that it overlaps by the threshold or more; of equal overlaps, to the later one.
"""

from __future__ import annotations

import numpy as np

UNMATCHED = np.iinfo(np.int64).max
_PAIRS_AT_A_TIME = 1_000_000  # limits the memory for an image with thousands of boxes


def stable_matching(asker: np.ndarray, asked: np.ndarray, rank: np.ndarray, boxes: int) -> np.ndarray:
    """The rank of the scored box that finds each of `boxes` ground-truth boxes, or `UNMATCHED`, int64 (`boxes`,).

    Args:
        asker, asked, rank: int64 (P,), the pairs: number of the scored box, number of the ground-truth box, place of
            the scored box in order of score. Sorted by asker, then by preference, the most preferred first; the askers
            of one ground-truth box are in the order of rank.
        boxes: how many ground-truth boxes there are.

    The rule processes the scored boxes one by one, which can take thousands of steps. Its result is the stable matching
    of scored boxes, whose preference is overlap, and ground-truth boxes, whose preference is rank. The stable matching
    is unique because all ground-truth boxes have the same preference, so the algorithm of Gale and Shapley (1962) finds
    it, in a few rounds: each unmatched scored box proposes to its most preferred ground-truth box that has not rejected
    it; each ground-truth box keeps the proposer of the best rank and rejects the others, until no box is rejected.

    >>> # both prefer box 0; scored box 0 has the better rank, so scored box 1 is matched to box 1
    >>> stable_matching(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [0, 1]
    """
    held = np.full(boxes, UNMATCHED)
    is_first = np.ones(len(asker), dtype=bool)
    while asker.size:
        is_first = is_first[: len(asker)]
        np.not_equal(asker[1:], asker[:-1], out=is_first[1:])
        favourite = np.flatnonzero(is_first)[::-1]
        held[asked[favourite]] = rank[favourite]  # of several for one place, numpy keeps the last: the best rank
        standing = rank <= held[asked]
        if standing.all():
            break
        asker, asked, rank = asker[standing], asked[standing], rank[standing]
    return held


def overlapping_pairs(
    scored: np.ndarray, boxes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs with IoU of at least `threshold`: index into `scored` (R, 4), index into `boxes` (G, 4), IoU, each (P,).

    They are sorted by scored box, then by descending IoU, then the later ground-truth box first.
    """
    rows = max(1, _PAIRS_AT_A_TIME // max(1, len(boxes)))
    nothing = np.zeros(0, dtype=np.int64)
    parts = [(nothing, nothing, np.zeros(0))]
    for start in range(0, len(scored), rows):
        overlaps = pairwise_iou(scored[start : start + rows], boxes)
        row, column = np.nonzero(overlaps >= threshold)
        parts.append((row + start, column, overlaps[row, column]))
    taker, box, overlap = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((-box, -overlap, taker))
    return taker[order], box[order], overlap[order]


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of every pair, float64 (R, G), 0 where a union is empty. Both sides float64 `(x0, y0, x1, y1)`.

    >>> pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5], [20, 20, 30, 30]])).tolist()
    [[0.5, 0.0]]
    """
    intersection = pairwise_intersection(boxes, others)
    union = box_areas(boxes)[:, None] + box_areas(others) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def pairwise_intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that every pair has in common, float64 (R, G). Both sides float64 `(x0, y0, x1, y1)`."""
    widths = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    heights = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    return np.clip(widths, 0.0, None) * np.clip(heights, 0.0, None)


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Width times height of `(x0, y0, x1, y1)` boxes (…, 4) → (…)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
