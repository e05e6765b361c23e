"""Detections of one or several detectors on the same ground truth → how much AP depends on the choice of images.

The bootstrap over images (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 6 and 13): the test
images are drawn anew with replacement, as many as there are, and AP is computed on the draw. Detections are matched
once; a draw only changes how often each image counts. All detectors are measured on the same draws, so that the
interval of a difference is narrower than the intervals of its sides suggest.

Shapes: D detections, M images, K classes, T targets, F finds (see `Matching`), B draws, b draws of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.coco_evaluation import Matching, matchings
from detection.evaluation.coco_parameters import AREA_RANGES, RECALL_LEVELS
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import running_sums
from detection.evaluation.precision_recall import at_levels, finds_needed

DRAWS = 200
INTERVAL = 0.95
_VALUES_AT_A_TIME = 500_000  # of a block of draws; larger blocks do not fit the processor's cache, and are slower


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
    by_class = {name: np.full((len(counts), classes), np.nan) for name in AREA_RANGES}
    for name, matched in matchings(ground_truth, detections):
        sizes = len(matched.images), len(matched.target_images), classes * len(RECALL_LEVELS)
        step = max(1, _VALUES_AT_A_TIME // max(sizes))
        for first in range(0, len(counts), step):
            by_class[name][first : first + step] = _average_precision(matched, counts[first : first + step], classes)
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


def _average_precision(matched: Matching, counts: np.ndarray, classes: int) -> np.ndarray:
    """AP of each class on each draw of a block, (b, M) → (b, K), NaN without targets.

    The draws of a block stand one after the other: a *group* is one class in one draw, and there are b · K of them.
    """
    draws = len(counts)
    inside = np.flatnonzero(matched.inside)
    before = running_sums(matched.inside)  # of each detection, those of the range before it
    counted = running_sums(counts[:, matched.images[inside]])
    targets = _sums(counts[:, matched.target_images], matched.target_classes, classes)
    present = np.flatnonzero(targets)
    needed = finds_needed(targets[present])
    starts = _in_blocks(before[matched.starts[:-1]], draws, len(inside))
    average = np.zeros(targets.shape)
    for finders, regular in matched.finds:
        weights = counts[:, matched.images[finders]]
        found = weights * regular
        finds, corrections = running_sums(found), running_sums(found - weights * matched.inside[finders])
        bounds = np.searchsorted(finders, matched.starts)
        first, size = _in_blocks(bounds[:-1], draws, len(finders)), np.tile(np.diff(bounds), draws)
        number = finds[1:] - np.repeat(finds[first], size)
        total = counted[_in_blocks(before[finders + 1], draws, len(inside))] + corrections[1:]
        total -= np.repeat(counted[starts] + corrections[first], size)
        precision = np.divide(number, total, out=np.zeros(len(number)), where=total > 0)
        # A find that is drawn n times stands for n finds of the same precision.
        levels = at_levels(np.repeat(precision, found.ravel()), finds[first + size] - finds[first], needed, present)
        average[present] += np.ascontiguousarray(levels).mean(axis=1)
    average /= len(matched.finds)
    average[targets == 0] = np.nan
    return average.reshape(draws, classes)


def _in_blocks(places: np.ndarray, draws: int, size: int) -> np.ndarray:
    """Places (n,) in an array of `size` → those in `draws` such arrays one after the other, (draws · n,)."""
    return (np.arange(draws)[:, None] * size + places).ravel()


def _sums(weights: np.ndarray, classes: np.ndarray, number: int) -> np.ndarray:
    """The sum of each class's weights in each draw, (b, T) and (T,) → int64 (b · K,)."""
    groups = _in_blocks(classes, len(weights), number)
    return np.bincount(groups, weights.ravel(), minlength=len(weights) * number).astype(np.int64)
