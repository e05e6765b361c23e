"""Outcomes of detections → how well a score states the probability that the detection is correct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.outcomes import Outcomes

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """A reliability curve. For each bin of scores, [0, 0.1), …, [0.9, 1]: the number of detections, their mean score,
    and the share of them that is correct at IoU 0.5 (both None for an empty bin).

    error: the expected calibration error, the mean of |share − mean score| weighted by the numbers; None without
    detections. bias: the mean score minus the share of correct ones, over all; above 0: the scores are too high.
    """

    counts: list[int]
    scores: list[float | None]
    correct: list[float | None]
    error: float | None
    bias: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers and lists, for JSON."""
        return dict(vars(self))


def calibration(outcomes: Outcomes, *, lowest_score: float = 0.0) -> Calibration:
    """The reliability curve and the expected calibration error (Guo et al., ICML 2017, equation 5; for detections, with
    precision in place of accuracy: Küppers et al., CVPR workshops 2020, section 3).

    Args:
        lowest_score: detections below it are left out. A detector's many detections of low score would else decide the
            error alone.
    """
    kept = outcomes.counted & (outcomes.scores >= lowest_score)
    scores, correct = np.clip(outcomes.scores[kept], 0.0, 1.0), outcomes.correct[kept]
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, weights=scores, minlength=BINS)
    hits = np.bincount(bins, weights=correct, minlength=BINS)
    total = int(counts.sum())
    return Calibration(
        counts=counts.tolist(),
        scores=_means(sums, counts),
        correct=_means(hits, counts),
        error=float(np.abs(sums - hits).sum() / total) if total else None,
        bias=float((sums - hits).sum() / total) if total else None,
    )


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [value / count if count else None for value, count in zip(sums.tolist(), counts.tolist(), strict=True)]
