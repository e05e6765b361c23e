"""Detections and ground truth → COCO's precision and recall tables, for all classes and images at once.

pycocotools' COCOeval loops over classes, images, detections and objects. This module computes the same bits with array
operations, in a loop over thresholds, area ranges and limits only.

Shapes: D detections, T objects, K categories; I IoU thresholds, R recall levels, A area ranges, L limits; F finds, each
a detection that is matched to an object (at one threshold, for one area range). Boxes are COCO's `(x, y, w, h)`,
float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detection.common.threads import map_in_threads
from detection.evaluation.coco_cells import Detections, Objects, grouped, overlapping_pairs, ranked
from detection.evaluation.coco_matching import Finds, Matcher
from detection.evaluation.coco_parameters import AREA_RANGES, DETECTION_LIMITS, IOU_THRESHOLDS, RECALL_LEVELS
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import running_sums
from detection.evaluation.precision_recall import at_levels, finds_needed


def evaluate(
    ground_truth: GroundTruth, detections: np.ndarray, limits: tuple[int, ...] = DETECTION_LIMITS
) -> tuple[np.ndarray, np.ndarray]:
    """The tables whose means are COCO's figures.

    Args:
        ground_truth: the objects and the images.
        detections: float64 (D, 7) rows of image_id, x, y, w, h, score, category_id, of listed images and categories.
        limits: L ascending maxima of detections per class and image that are considered.

    Returns:
        precision (I, R, K, A), at the largest limit, and recall (I, K, A, L), −1 where a class has no targets.
    """
    found, objects = ranked(ground_truth, detections, limits[-1]), grouped(ground_truth)
    matcher = Matcher(found, objects, overlapping_pairs(detections, found, objects))
    classes = len(ground_truth.category_ids)
    precision = np.full((len(AREA_RANGES), len(IOU_THRESHOLDS), classes, len(RECALL_LEVELS)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), classes, len(AREA_RANGES), len(limits)), -1.0)

    def fill(area: int) -> None:
        ignored, inside = _outside(objects, area), _inside(found, area)
        targets = np.bincount(objects.classes[~ignored], minlength=classes)
        present = np.flatnonzero(targets)
        if not present.size:
            return
        needed, targets = finds_needed(targets[present]), targets[present]
        finds, regular = _with_effect(matcher.finds(ignored), found, ignored, inside)
        correct = finds.chosen(regular)
        owners, ranks = objects.classes[correct.objects], found.ranks[correct.detections]
        for limit, most in enumerate(limits):
            hits = _counts(correct, owners, ranks < most, classes)
            recall[:, present, area, limit] = hits[:, present] / targets
        places = found.places[finds.detections]
        counted = running_sums(inside)
        changes, before = regular.astype(np.int64) - inside[places], counted[places + 1]
        for threshold, own in enumerate(hits):  # those of the largest limit
            at = finds.at(threshold)
            first = np.searchsorted(places[at], found.starts[:-1])
            corrections = running_sums(changes[at])
            number = np.arange(1, own.sum() + 1) - np.repeat(running_sums(own)[:-1], own)  # of the class's hit, from 1
            total = (before[at] + corrections[1:])[regular[at]]
            total -= np.repeat(counted[found.starts[:-1]] + corrections[first], own)
            precisions = number / (total + np.spacing(1.0))
            precision[area, threshold, present] = at_levels(precisions, own, needed, present)

    for _ in map_in_threads(fill, range(len(AREA_RANGES))):
        pass
    return precision.transpose(1, 3, 2, 0), recall


@dataclass(frozen=True)
class Matching:
    """The best detections of each class and image, by class and descending score, and what they find for one area
    range at each IoU threshold: what `evaluate` computes AP from.

    starts: int64 (K + 1,), where each class's detections begin; images: int64 (D,), places in the ground truth's image
    ids. inside: bool (D,), whether a detection's own area is in the range: it counts only then, but for the finds.
    finds: of each threshold, the detections that find an object, int64 (F,) ascending, and whether it is a target, bool
    (F,): they count then, and do not otherwise. Those without effect are left out. target_classes, target_images:
    int64, of the targets.
    """

    starts: np.ndarray
    images: np.ndarray
    inside: np.ndarray
    finds: list[tuple[np.ndarray, np.ndarray]]
    target_classes: np.ndarray
    target_images: np.ndarray


def matchings(ground_truth: GroundTruth, detections: np.ndarray) -> Iterator[tuple[str, Matching]]:
    """Area range and matching, for each range with targets. Arguments as for `evaluate`."""
    found, objects = ranked(ground_truth, detections, DETECTION_LIMITS[-1]), grouped(ground_truth)
    matcher = Matcher(found, objects, overlapping_pairs(detections, found, objects))
    classes = len(ground_truth.category_ids)
    images = np.empty_like(found.cells)
    images[found.places] = found.cells // classes
    for area, name in enumerate(AREA_RANGES):
        ignored, inside = _outside(objects, area), _inside(found, area)
        if ignored.all():
            continue
        finds, regular = _with_effect(matcher.finds(ignored), found, ignored, inside)
        places = found.places[finds.detections]
        at = [finds.at(threshold) for threshold in range(len(IOU_THRESHOLDS))]
        yield (
            name,
            Matching(
                found.starts,
                images,
                inside,
                [(places[rows], regular[rows]) for rows in at],
                objects.classes[~ignored],
                objects.cells[~ignored] // classes,
            ),
        )


def _outside(objects: Objects, area: int) -> np.ndarray:
    """bool (T,): the objects that are ignored for an area range."""
    low, high = list(AREA_RANGES.values())[area]
    ignored: np.ndarray = objects.crowds | (objects.areas < low) | (objects.areas > high)
    return ignored


def _inside(found: Detections, area: int) -> np.ndarray:
    """bool (D,): detections whose own area is in the range. One that finds nothing is a false positive only then."""
    low, high = list(AREA_RANGES.values())[area]
    inside: np.ndarray = (found.areas >= low) & (found.areas <= high)
    return inside


def _with_effect(finds: Finds, found: Detections, ignored: np.ndarray, inside: np.ndarray) -> tuple[Finds, np.ndarray]:
    """The finds that change a figure, and whether each one's object is a target, bool (F,).

    A detection that finds a target always counts. One that finds an ignored object never does, which changes nothing if
    it lies outside the area range: without the find it would not count either.
    """
    regular = ~ignored[finds.objects]
    effective = regular | inside[found.places[finds.detections]]
    return finds.chosen(effective), regular[effective]


def _counts(finds: Finds, classes: np.ndarray, chosen: np.ndarray, number: int) -> np.ndarray:
    """How many of the `chosen` finds, bool (F,), each of `number` classes has at each threshold: int64 (I, K)."""
    levels = len(IOU_THRESHOLDS) + 1
    cells = classes[chosen] * levels
    begun, ended = (
        np.bincount(cells + level[chosen], minlength=number * levels) for level in (finds.first, finds.last)
    )
    return np.cumsum((begun - ended).reshape(number, levels), axis=1)[:, :-1].T
