"""Detections and ground truth → COCO's precision and recall tables, for all classes and images at once.

pycocotools' COCOeval loops over classes, images, detections and objects. This module computes the same bits with array
operations, in a loop over thresholds, area ranges and limits only.

Shapes: D detections, T objects, K categories; I IoU thresholds, R recall levels, A area ranges, L limits; P pairs of a
detection and an object that overlap; F finds, each a detection that is matched to an object (at one threshold, for one
area range). Boxes are COCO's `(x, y, w, h)`, float64. A *cell* is one class in one image: detections and objects match
only within a cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detection.evaluation.coco_parameters import AREA_RANGES, DETECTION_LIMITS, IOU_THRESHOLDS, RECALL_LEVELS
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import descending_order, pairs_within, ranks_within, running_sums, stable_order
from detection.evaluation.precision_recall import at_levels, finds_needed
from detection.evaluation.stable_matching import UNMATCHED, stable_matching


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
    found, objects = _ranked(ground_truth, detections, limits[-1]), _grouped(ground_truth)
    pairs = _overlapping_pairs(found, objects)
    classes = len(ground_truth.category_ids)
    precision = np.full((len(IOU_THRESHOLDS), len(RECALL_LEVELS), classes, len(AREA_RANGES)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), classes, len(AREA_RANGES), len(limits)), -1.0)
    starts = np.searchsorted(found.classes, np.arange(classes + 1))
    for area, (low, high) in enumerate(AREA_RANGES.values()):
        ignored = objects.crowds | (objects.areas < low) | (objects.areas > high)
        targets = np.bincount(objects.classes[~ignored], minlength=classes)
        present = np.flatnonzero(targets)
        if not present.size:
            continue
        needed = finds_needed(targets[present])
        inside = (found.areas >= low) & (found.areas <= high)
        counted = running_sums(inside)
        for threshold, (finders, regular) in enumerate(_finds(pairs, ignored, objects.crowds)):
            precisions, hits = _hits(finders, regular, inside, counted, starts)
            precision[threshold, :, present, area] = at_levels(precisions, hits, needed, present)
            correct = finders[regular]
            ranks, own = found.ranks[correct], found.classes[correct]
            for limit, most in enumerate(limits[:-1]):
                within = np.bincount(own[ranks < most], minlength=classes)
                recall[threshold, present, area, limit] = within[present] / targets[present]
            recall[threshold, present, area, -1] = hits[present] / targets[present]
    return precision, recall


@dataclass(frozen=True)
class _Detections:
    """The best detections of each cell, up to the largest limit, sorted by class and descending score; equal scores are
    sorted by image and input order.

    classes, cells, ranks (place in the cell, from 0): int64 (D,); boxes (D, 4); areas (D,).
    """

    classes: np.ndarray
    cells: np.ndarray
    ranks: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class _Objects:
    """All objects by cell, those of one in the file's order: classes, cells int64 (T,); boxes (T, 4); areas, crowds."""

    classes: np.ndarray
    cells: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray


@dataclass(frozen=True)
class _Pairs:
    """Pairs with at least the lowest threshold's IoU: rows of `_Detections` and `_Objects`, int64, and IoU, each (P,).

    Sorted by detection, then by descending IoU, then the later object first.
    """

    detections: np.ndarray
    objects: np.ndarray
    overlaps: np.ndarray


@dataclass(frozen=True)
class Matching:
    """The best detections of each class and image, by class and descending score, and what they find for one area
    range at each IoU threshold: what `evaluate` computes AP from.

    starts: int64 (K + 1,), where each class's detections begin; images: int64 (D,), places in the ground truth's image
    ids. inside: bool (D,), whether a detection's own area is in the range: it counts only then, but for the finds.
    finds: of each threshold, the detections that find an object, int64 (F,) ascending, and whether it is a target, bool
    (F,): they count then, and do not otherwise. Those without effect are left out. target_classes, target_images:
    int64, of the targets, by class.
    """

    starts: np.ndarray
    images: np.ndarray
    inside: np.ndarray
    finds: list[tuple[np.ndarray, np.ndarray]]
    target_classes: np.ndarray
    target_images: np.ndarray


def matchings(ground_truth: GroundTruth, detections: np.ndarray) -> Iterator[tuple[str, Matching]]:
    """Area range and matching, for each range with targets. Arguments as for `evaluate`."""
    found, objects = _ranked(ground_truth, detections, DETECTION_LIMITS[-1]), _grouped(ground_truth)
    pairs = _overlapping_pairs(found, objects)
    images = len(ground_truth.image_ids)
    starts = np.searchsorted(found.classes, np.arange(len(ground_truth.category_ids) + 1))
    for name, (low, high) in AREA_RANGES.items():
        ignored = objects.crowds | (objects.areas < low) | (objects.areas > high)
        if ignored.all():
            continue
        inside = (found.areas >= low) & (found.areas <= high)
        finds = []
        for finders, regular in _finds(pairs, ignored, objects.crowds):
            kept = regular | inside[finders]
            finds.append((finders[kept], regular[kept]))
        targets = ~ignored
        yield (
            name,
            Matching(
                starts, found.cells % images, inside, finds, objects.classes[targets], objects.cells[targets] % images
            ),
        )


def _ranked(ground_truth: GroundTruth, detections: np.ndarray, most: int) -> _Detections:
    images = np.searchsorted(ground_truth.image_ids, detections[:, 0])
    classes = np.searchsorted(ground_truth.category_ids, detections[:, 6])
    order = stable_order(images)
    order = order[descending_order(detections[order, 5])]
    order = order[stable_order(classes[order])]
    cells = (classes * len(ground_truth.image_ids) + images)[order]
    ranks = ranks_within(cells)
    kept = ranks < most
    order = order[kept]
    boxes = detections[order, 1:5]
    with np.errstate(over="ignore"):
        areas = boxes[:, 2] * boxes[:, 3]
    return _Detections(classes[order], cells[kept], ranks[kept], boxes, areas)


def _grouped(ground_truth: GroundTruth) -> _Objects:
    images = np.searchsorted(ground_truth.image_ids, ground_truth.object_image_ids)
    classes = np.searchsorted(ground_truth.category_ids, ground_truth.object_category_ids)
    cells = classes * len(ground_truth.image_ids) + images
    order = stable_order(cells)
    return _Objects(
        classes[order], cells[order], ground_truth.boxes[order], ground_truth.areas[order], ground_truth.crowds[order]
    )


def _overlapping_pairs(found: _Detections, objects: _Objects) -> _Pairs:
    nothing = np.zeros(0, dtype=np.int64)
    parts = [(nothing, nothing, np.zeros(0))]
    for detection, thing in pairs_within(found.cells, objects.cells):
        overlap = _overlaps(found.boxes[detection], objects.boxes[thing], objects.crowds[thing])
        enough = overlap >= IOU_THRESHOLDS[0]
        parts.append((detection[enough], thing[enough], overlap[enough]))
    detection, thing, overlap = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((-thing, -overlap, detection))
    return _Pairs(detection[order], thing[order], overlap[order])


def _overlaps(found: np.ndarray, objects: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """IoU of boxes side by side, (n, 4) and (n, 4) → (n,); with a crowd region, the share of the detection inside it.

    In pycocotools' order of operations, so that equal overlaps stay equal. Areas may overflow: the IoU of such boxes is
    NaN, and they match nothing.
    """
    (x, y, width, height), (other_x, other_y, other_width, other_height) = found.T, objects.T
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        across = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
        down = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
        own = width * height
        intersection = across * down
        union = np.where(crowds, own, own + other_width * other_height - intersection)
        return np.where((across > 0) & (down > 0), intersection / union, 0.0)


def _finds(pairs: _Pairs, ignored: np.ndarray, crowds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each threshold: the rows of the detections matched to an object, ascending (F,), and whether it is a target.

    In order of score, each detection is matched to the unmatched object that it overlaps most, among those that it
    overlaps by the threshold or more: to a target if there is one, else to one of the objects `ignored` (bool (T,)). A
    crowd region may be matched any number of times.
    """
    order = np.argsort(2 * pairs.detections + ignored[pairs.objects], kind="stable")  # targets before ignored objects
    asker, asked, overlap = pairs.detections[order], pairs.objects[order], pairs.overlaps[order]
    in_crowd = crowds[asked]
    places = len(ignored) + int(in_crowd.sum())
    asked[in_crowd] = np.arange(len(ignored), places)  # a copy of the crowd region for each of these pairs
    regular = np.zeros(places, dtype=bool)
    regular[: len(ignored)] = ~ignored
    for threshold in IOU_THRESHOLDS:  # ascending
        enough = overlap >= threshold
        asker, asked, overlap = asker[enough], asked[enough], overlap[enough]
        taker = stable_matching(asker, asked, asker, places)
        taken = np.flatnonzero(taker != UNMATCHED)
        taken = taken[np.argsort(taker[taken])]
        yield taker[taken], regular[taken]


def _hits(
    finders: np.ndarray, regular: np.ndarray, inside: np.ndarray, counted: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision at each detection that finds a target, class by class, and the number of these of each class, (K,).

    Args:
        finders, regular: (F,), see `_finds`.
        inside: bool (D,), whether a detection's own area is in the area range: an unmatched detection is a false
            positive only then. One that finds an ignored object never counts; one that finds a target always does.
        counted: int64 (D + 1,), running sums of `inside`.
        starts: int64 (K + 1,), where each class's detections begin.
    """
    first = np.searchsorted(finders, starts)
    corrections = running_sums(regular.astype(np.int64) - inside[finders])
    before = running_sums(regular)[first]
    hits = np.diff(before)
    number = np.arange(1, before[-1] + 1) - np.repeat(before[:-1], hits)  # of the target found, in its class, from 1
    total = (counted[finders + 1] + corrections[1:])[regular]
    total -= np.repeat(counted[starts[:-1]] + corrections[first[:-1]], hits)
    return number / (total + np.spacing(1.0)), hits
