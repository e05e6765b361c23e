"""Outcomes of detections → labels that are probably wrong, ranked.

Three signs, each of a detector that disagrees with the labels where it is rarely wrong:

| kind | what is seen | what the label may lack |
| --- | --- | --- |
| missing | a confident detection that overlaps no object by 0.1 | an object that nobody annotated |
| class | a confident detection of another class on an object that no detection of its class finds | another class |
| unfound | an object that no detection of any class and score overlaps by 0.1 | an object: there may be none |

If the classifier was also run on the objects' own boxes, its detections there decide what is unfound: an object may
have been overlooked by the proposals, and a detection of its neighbour may touch it.

Shapes: D detections, S objects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import pairs_within
from detection.evaluation.object_attributes import size_bins
from detection.evaluation.outcomes import BACKGROUND, CONFUSION, MATCH_IOU, Outcomes, box_ious

SURE_RECALL = 0.5  # an object that nothing touches is suspected if this share of the objects of similar size is found
MOST = 500  # suspicions of each kind, at most


@dataclass(frozen=True)
class Suspicion:
    """One label that is probably wrong.

    kind: "missing", "class" or "unfound". image: place in the ground truth's image ids. box: (x, y, w, h), of the
    detection, for "unfound" of the object. label: the class that is suggested, a place in the category ids; of
    "unfound" the class that is annotated. stated: the annotated class, None for "missing". object: place in the ground
    truth, or None.
    confidence: in 0–1, by which suspicions of a kind are ranked: the detection's score; of "unfound", the share of
    the objects of similar size that are found, also in their own boxes if that was tried.
    """

    kind: str
    image: int
    box: tuple[float, float, float, float]
    label: int
    stated: int | None
    object: int | None
    confidence: float


def suspicious_labels(
    ground_truth: GroundTruth, outcomes: Outcomes, on_objects: Outcomes | None = None
) -> list[Suspicion]:
    """The suspicions by kind, each in descending order of confidence.

    Args:
        on_objects: outcomes of detections whose proposals were the objects' own boxes. An object is then suspected if
            the classifier sees nothing in its box, and no other detection finds it.

    As in confident learning (Northcutt, Jiang and Chuang, JAIR 2021, section 3.1), a label is suspected if a model
    disagrees with it at least as confidently as it, on average, agrees with labels of that class.
    """
    sure = confident_detections(outcomes, len(ground_truth.category_ids))
    missing = np.flatnonzero(unlabelled_places(outcomes, sure))[:MOST].tolist()
    found = [_of_detection("missing", outcomes, row, None) for row in missing]
    confused = np.flatnonzero(sure & (outcomes.kinds == CONFUSION))
    confused = confused[outcomes.found_by[outcomes.about[confused]] < 0]
    _, first = np.unique(outcomes.about[confused], return_index=True)  # the best of each object
    for row in confused[np.sort(first)][:MOST].tolist():
        found.append(_of_detection("class", outcomes, row, int(outcomes.about[row])))
    return found + _unfound(ground_truth, outcomes, outcomes if on_objects is None else on_objects)


def confident_detections(outcomes: Outcomes, classes: int) -> np.ndarray:
    """bool (D,): whether a score reaches the mean score of the correct detections of its class, the threshold of
    confident learning. It does not depend on how many labels are missing, as a precision would."""
    correct = outcomes.correct
    numbers = np.bincount(outcomes.classes[correct], minlength=classes)
    sums = np.bincount(outcomes.classes[correct], weights=outcomes.scores[correct], minlength=classes)
    means = np.divide(sums, numbers, out=np.full(classes, np.inf), where=numbers > 0)
    return outcomes.counted & (outcomes.scores >= means[outcomes.classes])


def _of_detection(kind: str, outcomes: Outcomes, row: int, thing: int | None) -> Suspicion:
    x, y, width, height = outcomes.boxes[row].tolist()
    stated = None if thing is None else int(outcomes.object_classes[thing])
    label, score = int(outcomes.classes[row]), float(outcomes.scores[row])
    return Suspicion(kind, int(outcomes.images[row]), (x, y, width, height), label, stated, thing, score)


def unlabelled_places(outcomes: Outcomes, sure: np.ndarray) -> np.ndarray:
    """bool (D,): the detections among `sure` (D,) where nothing is annotated, without those that overlap a better one
    of them by 0.5: one place is suspected once."""
    chosen = sure & (outcomes.kinds == BACKGROUND)
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(outcomes.images[rows], kind="stable")]  # by image, then in order of score
    images = outcomes.images[rows]
    for one, other in pairs_within(images, images):
        later = one > other
        one, other = rows[one[later]], rows[other[later]]
        chosen[one[box_ious(outcomes.boxes[one], outcomes.boxes[other]) >= MATCH_IOU]] = False
    return chosen


def _unfound(ground_truth: GroundTruth, outcomes: Outcomes, on_objects: Outcomes) -> list[Suspicion]:
    targets = outcomes.targets
    recognised = (outcomes.found_by >= 0) | (on_objects.found_by >= 0)
    touched = recognised.copy()
    touched[on_objects.pair_objects] = True
    bins = size_bins(ground_truth.areas)
    all_, found = (np.bincount(bins[chosen]) for chosen in (targets, targets & recognised))
    share = np.append(found, np.zeros(len(all_) - len(found))) / np.maximum(all_, 1)
    rows = np.flatnonzero(targets & ~touched)
    rows = rows[share[bins[rows]] >= SURE_RECALL]
    rows = rows[np.argsort(-share[bins[rows]], kind="stable")][:MOST]
    suspicions = []
    for row in rows.tolist():
        x, y, width, height = ground_truth.boxes[row].tolist()
        image, label = int(outcomes.object_images[row]), int(outcomes.object_classes[row])
        box = (x, y, width, height)
        suspicions.append(Suspicion("unfound", image, box, label, label, row, float(share[bins[row]])))
    return suspicions
