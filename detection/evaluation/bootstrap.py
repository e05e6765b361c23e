"""Detections of one or several detectors on the same ground truth → how much AP depends on the choice of images.

The bootstrap over images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13): the test
images are drawn anew with replacement, as many as there are, and AP is computed on the draw. Detections are matched
once; a draw only changes how often each image counts. All detectors are measured on the same draws, so that the
interval of a difference is narrower than the intervals of its sides suggest.

Shapes: D detections, M images, K classes, B draws, I IoU thresholds, R recall levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.coco_evaluation import MatchedDetections, matched_detections
from detection.evaluation.coco_parameters import AREA_RANGES, RECALL_LEVELS
from detection.evaluation.ground_truth import GroundTruth

DRAWS = 200
INTERVAL = 0.95
_VALUES_AT_A_TIME = 4_000_000  # weights of detections in memory


@dataclass(frozen=True)
class Draws:
    """AP of one detector on the images as they are, and on each draw.

    by_size: area range → (AP, B values); by_class: (K,), (B, K). NaN where there are no targets.
    """

    by_size: dict[str, tuple[float, np.ndarray]]
    by_class: tuple[np.ndarray, np.ndarray]


def draw_images(images: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each image counts, int32 (B + 1, M): once each in the first row, then as drawn."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(images, np.full(images, 1 / images), size=draws)
    return np.concatenate([np.ones((1, images), dtype=np.int64), drawn]).astype(np.int32)


def bootstrap(ground_truth: GroundTruth, detections: np.ndarray, counts: np.ndarray) -> Draws:
    """COCO's AP (mean over the ten IoU thresholds) of checked detections (D, 7), on the images drawn as `counts` says.

    The first row of `counts` gives the figures of `average_precision`.
    """
    classes = len(ground_truth.category_ids)
    sums = {name: np.zeros((len(counts), classes)) for name in AREA_RANGES}
    matched = matched_detections(ground_truth, detections)
    thresholds = {name: 0 for name in AREA_RANGES}
    for name, one in matched:
        sums[name] += _average_precision(one, counts, classes)
        thresholds[name] += 1
    by_class = {name: sums[name] / max(thresholds[name], 1) for name in AREA_RANGES}
    means = {name: _mean(values) for name, values in by_class.items()}
    return Draws({name: (float(v[0]), v[1:]) for name, v in means.items()}, (by_class["all"][0], by_class["all"][1:]))


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """The percentile interval of `INTERVAL` of the values of the draws (B,), NaN left out; None if all are NaN."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return float(low), float(high)


def _mean(values: np.ndarray) -> np.ndarray:
    """The mean over the classes with targets, (B, K) → (B,); NaN if none has any."""
    present = ~np.isnan(values)
    sums, numbers = np.where(present, values, 0.0).sum(axis=1), present.sum(axis=1)
    return np.divide(sums, numbers, out=np.full(len(values), np.nan), where=numbers > 0)


def _average_precision(matched: MatchedDetections, counts: np.ndarray, classes: int) -> np.ndarray:
    """AP of each class on each draw, (B, K), NaN without targets."""
    average = np.full((len(counts), classes), np.nan)
    starts = np.searchsorted(matched.classes, np.arange(classes + 1))
    object_order = np.argsort(matched.target_classes, kind="stable")
    object_starts = np.searchsorted(matched.target_classes[object_order], np.arange(classes + 1))
    for k in range(classes):
        rows = slice(starts[k], starts[k + 1])
        objects = object_order[object_starts[k] : object_starts[k + 1]]
        if not len(objects):
            continue
        last = int(np.flatnonzero(matched.correct[rows]).max(initial=-1)) + 1  # what follows changes no precision
        correct, images = matched.correct[rows][:last], matched.images[rows][:last]
        step = max(1, _VALUES_AT_A_TIME // max(1, len(images)))
        for first in range(0, len(counts), step):
            some = slice(first, first + step)
            targets = counts[some][:, matched.target_images[objects]].sum(axis=1)
            average[some, k] = _of_draws(counts[some][:, images], correct, targets)
    return average


def _of_draws(weights: np.ndarray, correct: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """AP of one class, (B,): weights (B, D) of its detections in order of score, correct (D,), targets (B,)."""
    place = np.flatnonzero(correct)
    total = np.cumsum(weights, axis=1, dtype=np.int32)[:, place]
    found = np.cumsum(weights[:, place], axis=1, dtype=np.int32)
    precision = np.divide(found, total, out=np.zeros(found.shape), where=total > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(best), 1))], axis=1)
    values = np.full(len(weights), np.nan)
    for draw in np.flatnonzero(targets).tolist():
        recall = found[draw] / targets[draw]
        values[draw] = best[draw][np.searchsorted(recall, RECALL_LEVELS)].mean()
    return values
