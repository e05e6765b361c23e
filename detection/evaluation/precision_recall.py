"""Detections that are correct or not → precision at COCO's recall levels, and average precision by class.

Shapes: D detections, K classes, K' classes with targets, R recall levels.
"""

from __future__ import annotations

import numpy as np

from detection.evaluation.coco_parameters import RECALL_LEVELS
from detection.evaluation.groups import running_sums


def precision_by_class(correct: np.ndarray, scores: np.ndarray, classes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The best precision at each recall level or above it, (K, R); 0 where it is not reached, NaN without targets.

    Args:
        correct: bool (D,), whether a detection finds a target. Detections that do not count must be left out.
        scores: (D,). Equal scores are taken in the order of the arguments.
        classes: int64 (D,) in 0..K-1. targets: int64 (K,), how many objects there are to find.
    """
    present = np.flatnonzero(targets)
    precision = np.full((len(targets), len(RECALL_LEVELS)), np.nan)
    if not present.size:
        return precision
    order = np.lexsort((-scores, classes))
    correct, classes = correct[order], classes[order]
    starts = np.searchsorted(classes, np.arange(len(targets) + 1))
    found = running_sums(correct)
    place = np.flatnonzero(correct)
    own = classes[place]
    precisions = (found[place + 1] - found[starts[own]]) / (place + 1 - starts[own])
    hits = np.diff(found[starts])
    precision[present] = at_levels(precisions, hits, finds_needed(targets[present]), present)
    return precision


def average_precision_by_class(
    correct: np.ndarray, scores: np.ndarray, classes: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """AP of each class, (K,), NaN without targets: the mean over the recall levels. Arguments of `precision_by_class`.

    >>> one, two = np.array([True, False, True]), np.array([0.9, 0.8, 0.7])
    >>> average_precision_by_class(one, two, np.zeros(3, dtype=np.int64), np.array([2, 0])).round(3).tolist()
    [0.835, nan]
    """
    return precision_by_class(correct, scores, classes, targets).mean(axis=1)


def finds_needed(targets: np.ndarray) -> np.ndarray:
    """The number of targets that must be found to reach each recall level, at least 1: int64 (K',) → (K', R)."""
    targets = targets[:, None]
    needed = np.ceil(RECALL_LEVELS * targets).astype(np.int64)
    # the product is rounded, but the quotient is compared
    needed -= (needed - 1) / targets >= RECALL_LEVELS
    needed += needed / targets < RECALL_LEVELS
    return np.maximum(needed, 1)


def at_levels(precisions: np.ndarray, hits: np.ndarray, needed: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The best precision at each recall level or above it, 0 if it is not reached: (K', R) for classes `present`.

    Precision decreases between two hits, so only its values at the hits are needed.

    Args:
        precisions: at each correct detection, class by class, in order of score. hits: int64 (K,), how many there are.
        needed: see `finds_needed`.
    """
    first, count = running_sums(hits)[present][:, None], hits[present][:, None]
    reached = needed <= count
    at = first + np.where(reached, needed - 1, count)
    # the best from each level to the next, the last one's reaching to the next class; then the best of all from there
    best = np.maximum.reduceat(np.append(precisions, 0.0), at.ravel()).reshape(at.shape)
    return np.maximum.accumulate(np.where(reached, best, 0.0)[:, ::-1], axis=1)[:, ::-1]
