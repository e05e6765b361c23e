"""Outcomes of detections → F1 against the score threshold, and the best threshold of each class.

Shapes: D detections, K classes, L score levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.error_analysis import best_threshold
from detection.evaluation.outcomes import Outcomes

LEVELS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class ScoreThresholds:
    """The score thresholds with the best F1 at IoU 0.5, and the curves that they are the maxima of.

    overall: one threshold for all classes, counted together. by_class: K thresholds; a class without a correct
    detection has the overall one. f1_by_class: the F1 at these, None for a class without objects. f1, precision, recall
    at the 101 score levels 0.00 … 1.00, of all classes together; precision is None where no detection is left.
    """

    overall: float
    by_class: list[float]
    f1_by_class: list[float | None]
    best_f1: float
    f1: list[float]
    precision: list[float | None]
    recall: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON."""
        return dict(vars(self))


def score_thresholds(outcomes: Outcomes, classes: int) -> ScoreThresholds:
    """The best thresholds of K = `classes` classes; F1 = 2 · correct / (detections + objects), without ignored ones."""
    correct, counted, scores = outcomes.correct, outcomes.counted, outcomes.scores
    targets = outcomes.targets_by_class(classes)
    overall = best_threshold(scores, correct, counted, int(targets.sum()))
    by_class, f1_by_class = [], []
    of_class = np.split(np.argsort(outcomes.classes, kind="stable"), _starts(outcomes.classes, classes))
    for rows, number in zip(of_class, targets.tolist(), strict=True):
        best = best_threshold(scores[rows], correct[rows], counted[rows], number) if correct[rows].any() else overall
        by_class.append(best)
        kept = rows[scores[rows] >= best]
        f1_by_class.append(_f1(correct[kept].sum(), counted[kept].sum(), number) if number else None)
    # descending scores: the number of detections at or above each level
    above = np.searchsorted(-scores, -LEVELS, side="right")
    found = np.append(0, np.cumsum(correct))[above]
    kept = np.append(0, np.cumsum(counted))[above]
    total = int(targets.sum())
    return ScoreThresholds(
        overall=overall,
        by_class=by_class,
        f1_by_class=f1_by_class,
        best_f1=_f1((correct & (scores >= overall)).sum(), (counted & (scores >= overall)).sum(), total),
        f1=(2 * found / np.maximum(kept + total, 1)).tolist(),
        precision=[one / all_ if all_ else None for one, all_ in zip(found.tolist(), kept.tolist(), strict=True)],
        recall=(found / max(total, 1)).tolist(),
    )


def _starts(classes: np.ndarray, count: int) -> np.ndarray:
    return np.searchsorted(np.sort(classes), np.arange(1, count))


def _f1(correct: int, counted: int, targets: int) -> float:
    return float(2 * correct / max(counted + targets, 1))
