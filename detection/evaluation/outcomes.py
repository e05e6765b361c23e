"""Detections and ground truth → the kind of each detection at IoU 0.5, and what became of each object.

Every detection is of the first of these kinds that applies, as in TIDE (Bolya et al., ECCV 2020, section 2.2):

| kind | a detection that |
| --- | --- |
| correct | finds an object of its class by COCO's rule (see `stable_matching`) |
| localisation | overlaps an object of its class by 0.1 to 0.5: right class, poor box |
| confusion | overlaps an object of another class by 0.5 or more: good box, wrong class |
| duplicate | overlaps an object of its class by 0.5 or more that a detection with a better score has found |
| both | overlaps an object of another class by 0.1 to 0.5: wrong class and poor box |
| background | overlaps no object by 0.1 |

Objects that no correct detection finds are missed. A detection that is not correct and lies at least half inside a
crowd region of its class is ignored: it does not count. A kind depends only on the detections with better scores, so
the kinds are the same for every score threshold.

Shapes: D detections, S objects (with crowd regions), K classes, P pairs of a detection and an object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.coco_parameters import DETECTION_LIMITS
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import pairs_within, ranks_within
from detection.evaluation.results import checked
from detection.evaluation.stable_matching import UNMATCHED, stable_matching

KINDS = ("correct", "localisation", "confusion", "duplicate", "both", "background")
CORRECT, LOCALISATION, CONFUSION, DUPLICATE, BOTH, BACKGROUND = range(len(KINDS))
MATCH_IOU = 0.5
NEAR_IOU = 0.1


@dataclass(frozen=True)
class Outcomes:
    """The detections of listed images and categories in descending order of score, and the objects they are about.

    rows: int64 (D,), places in the array of detections that was given. scores (D,); boxes (D, 4) `(x, y, w, h)`.
    images, classes: int64 (D,), places in the ground truth's image and category ids.
    kinds: int8 (D,), places in `KINDS`. ignored: bool (D,).
    about: int64 (D,), the object found, or the one that the mistake is about (of a duplicate: the object that was found
    before); −1 for background. ious: float64 (D,), the overlap with it.
    object_images, object_classes: int64 (S,), places as above. targets: bool (S,), objects that are no crowd regions.
    found_by: int64 (S,), the correct detection, or −1. pair_detections, pair_objects int64 (P,), pair_ious: the pairs
    of a detection and a target of any class that overlap by 0.1 or more, sorted by detection, then by descending
    overlap.
    """

    rows: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    images: np.ndarray
    classes: np.ndarray
    kinds: np.ndarray
    ignored: np.ndarray
    about: np.ndarray
    ious: np.ndarray
    object_images: np.ndarray
    object_classes: np.ndarray
    targets: np.ndarray
    found_by: np.ndarray
    pair_detections: np.ndarray
    pair_objects: np.ndarray
    pair_ious: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """bool (D,)."""
        return self.kinds == CORRECT

    @property
    def counted(self) -> np.ndarray:
        """bool (D,): the detections that are not ignored."""
        return ~self.ignored

    def targets_by_class(self, classes: int) -> np.ndarray:
        """int64 (K,)."""
        return np.bincount(self.object_classes[self.targets], minlength=classes)


def outcomes_of(ground_truth: GroundTruth, detections: np.ndarray, *, limit: int = DETECTION_LIMITS[-1]) -> Outcomes:
    """The kind of each detection in the module's table, and the objects.

    Args:
        ground_truth: the objects, and the images whose detections are counted.
        detections: float64 (D, 7) rows of image_id, x, y, w, h, score, category_id.
        limit: the maximum of detections per class and image that are considered, as in `average_precision`.

    Raises:
        UserError: detections that are not finite (see `results.checked`).
    """
    all_rows = checked(detections)
    listed = np.isin(all_rows[:, 0], ground_truth.image_ids) & np.isin(all_rows[:, 6], ground_truth.category_ids)
    images = np.searchsorted(ground_truth.image_ids, all_rows[:, 0])
    order = np.lexsort((images, -all_rows[:, 5]))
    order = order[listed[order]]
    images = images[order]
    classes = np.searchsorted(ground_truth.category_ids, all_rows[order, 6])
    best = ranks_within(classes * len(ground_truth.image_ids) + images) < limit
    order, images, classes = order[best], images[best], classes[best]
    boxes, scores = all_rows[order, 1:5], all_rows[order, 5]

    object_images = np.searchsorted(ground_truth.image_ids, ground_truth.object_image_ids)
    object_classes = np.searchsorted(ground_truth.category_ids, ground_truth.object_category_ids)
    pair, thing, iou = _pairs(images, boxes, object_images, ground_truth)
    same_class = classes[pair] == object_classes[thing]

    found_by = np.full(len(object_classes), -1)
    enough = same_class & (iou >= MATCH_IOU)
    held = stable_matching(pair[enough], thing[enough], pair[enough], len(object_classes))
    taken = np.flatnonzero(held != UNMATCHED)
    found_by[taken] = held[taken]
    kinds, about, ious = np.full(len(order), BACKGROUND, dtype=np.int8), np.full(len(order), -1), np.zeros(len(order))

    own_at, own = _best(pair, iou, same_class, len(order))
    other_at, other = _best(pair, iou, ~same_class, len(order))
    for kind, applies, at in (  # the last that applies is kept
        (BOTH, other >= NEAR_IOU, other_at),
        (DUPLICATE, own >= MATCH_IOU, own_at),
        (CONFUSION, other >= MATCH_IOU, other_at),
        (LOCALISATION, (own >= NEAR_IOU) & (own < MATCH_IOU), own_at),
    ):
        kinds[applies] = kind
        about[applies], ious[applies] = thing[at[applies]], iou[at[applies]]
    correct = found_by[taken]
    kinds[correct], about[correct] = CORRECT, taken
    ious[correct] = box_ious(boxes[correct], ground_truth.boxes[taken])

    ignored = _in_crowd(images, classes, boxes, object_images, object_classes, ground_truth) & (kinds != CORRECT)
    return Outcomes(
        order, scores, boxes, images, classes, kinds, ignored, about, ious,
        object_images, object_classes, ~ground_truth.crowds, found_by, pair, thing, iou,
    )  # fmt: skip


def _pairs(
    images: np.ndarray, boxes: np.ndarray, object_images: np.ndarray, ground_truth: GroundTruth
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, object and IoU of the pairs that overlap, (P,), in the order of `Outcomes`."""
    targets = np.flatnonzero(~ground_truth.crowds)
    targets = targets[np.argsort(object_images[targets], kind="stable")]
    nothing = np.zeros(0, dtype=np.int64)
    parts = [(nothing, nothing, np.zeros(0))]
    for detection, place in pairs_within(images, object_images[targets]):
        iou = box_ious(boxes[detection], ground_truth.boxes[targets[place]])
        near = iou >= NEAR_IOU
        parts.append((detection[near], targets[place[near]], iou[near]))
    detection, thing, iou = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((-thing, -iou, detection))
    return detection[order], thing[order], iou[order]


def _best(pair: np.ndarray, iou: np.ndarray, chosen: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `count` detections the place of its largest overlap among the `chosen` pairs, and that overlap; 0, 0
    where there is none."""
    at, largest = np.zeros(count, dtype=np.int64), np.zeros(count)
    places = np.flatnonzero(chosen)
    places = places[np.diff(pair[places], prepend=-1) != 0]
    at[pair[places]], largest[pair[places]] = places, iou[places]
    return at, largest


def _in_crowd(
    images: np.ndarray, classes: np.ndarray, boxes: np.ndarray, object_images: np.ndarray, object_classes: np.ndarray,
    ground_truth: GroundTruth,
) -> np.ndarray:  # fmt: skip
    inside = np.zeros(len(images), dtype=bool)
    crowds = np.flatnonzero(ground_truth.crowds)
    cells = object_classes[crowds] * len(ground_truth.image_ids) + object_images[crowds]
    crowds = crowds[np.argsort(cells, kind="stable")]
    for detection, place in pairs_within(classes * len(ground_truth.image_ids) + images, np.sort(cells)):
        common = intersections(boxes[detection], ground_truth.boxes[crowds[place]])
        own = boxes[detection, 2] * boxes[detection, 3]
        inside[detection[(own > 0) & (common >= MATCH_IOU * own)]] = True
    return inside


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that boxes side by side have in common, both (n, 4) `(x, y, w, h)` → (n,)."""
    (x, y, width, height), (other_x, other_y, other_width, other_height) = boxes.T, others.T
    across = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    down = np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    return np.clip(across, 0.0, None) * np.clip(down, 0.0, None)


def box_ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of boxes side by side, both (n, 4) `(x, y, w, h)` → (n,)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of boxes whose area overflows: 0
        common = intersections(boxes, others)
        union = boxes[:, 2] * boxes[:, 3] + others[:, 2] * others[:, 3] - common
        iou = common / union
    return np.where(common > 0, np.nan_to_num(iou, nan=0.0, posinf=0.0), 0.0)
