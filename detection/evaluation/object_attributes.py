"""Outcomes of detections → AP and recall against the objects' size, aspect ratio and crowding.

An attribute is a number of every object and of every detection; its bins divide both. As in COCO's area ranges, a bin's
targets are its objects, detections that find other objects are left out, and a detection that is not correct counts
where its own attribute lies. All is at IoU 0.5 and from one matching: a detection stays matched to the object that it
finds among all of them, where COCO's area ranges match anew.

Shapes: D detections, S objects, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import pairs_within
from detection.evaluation.outcomes import NEAR_IOU, Outcomes, box_ious
from detection.evaluation.precision_recall import average_precision_by_class

# Name: (what it is, the upper ends of the bins but the last, the bins' names).
ATTRIBUTES: dict[str, tuple[str, tuple[float, ...], tuple[str, ...]]] = {
    "size": (
        "the root of the object's area, in pixels of the image",
        (16, 32, 64, 96, 192),
        ("below 16", "16–32", "32–64", "64–96", "96–192", "192 and above"),
    ),
    "aspect": (
        "the box's width divided by its height",
        (0.5, 0.8, 1.25, 2),
        ("below 0.5", "0.5–0.8", "0.8–1.25", "1.25–2", "2 and above"),
    ),
    "crowding": (
        "how many other objects, of any class, the box overlaps by IoU 0.1 or more",
        (1, 3),
        ("none", "1 or 2", "3 and more"),
    ),
}


@dataclass(frozen=True)
class Bin:
    """One bin: its name, its targets, the share of them that a correct detection of any score finds (recall), and AP at
    IoU 0.5, the mean over the classes with targets in the bin. Both are None without targets."""

    name: str
    objects: int
    recall: float | None
    average_precision: float | None

    def to_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return {"name": self.name, "objects": self.objects, "recall": self.recall, "AP50": self.average_precision}


def by_attribute(ground_truth: GroundTruth, outcomes: Outcomes) -> dict[str, list[Bin]]:
    """The bins of each of `ATTRIBUTES`."""
    classes = len(ground_truth.category_ids)
    values = {
        "size": (np.sqrt(np.maximum(ground_truth.areas, 0.0)), np.sqrt(outcomes.boxes[:, 2] * outcomes.boxes[:, 3])),
        "aspect": (_aspect(ground_truth.boxes), _aspect(outcomes.boxes)),
        "crowding": _crowding(ground_truth, outcomes),
    }
    return {name: _bins(name, *values[name], outcomes, classes) for name in ATTRIBUTES}


def size_bins(areas: np.ndarray) -> np.ndarray:
    """The bin of `ATTRIBUTES["size"]` that each object's area (S,) lies in, int64 (S,)."""
    return np.digitize(np.sqrt(np.maximum(areas, 0.0)), ATTRIBUTES["size"][1])


def _bins(name: str, objects: np.ndarray, found: np.ndarray, outcomes: Outcomes, classes: int) -> list[Bin]:
    _, ends, names = ATTRIBUTES[name]
    bin_of_object = np.digitize(objects, ends)
    bin_of_detection = np.digitize(found, ends)
    correct = outcomes.correct
    if correct.any():
        bin_of_detection[correct] = bin_of_object[outcomes.about[correct]]
    bins = []
    for number, label in enumerate(names):
        of_bin = outcomes.targets & (bin_of_object == number)
        targets = np.bincount(outcomes.object_classes[of_bin], minlength=classes)
        kept = outcomes.counted & (bin_of_detection == number)
        values = average_precision_by_class(correct[kept], outcomes.scores[kept], outcomes.classes[kept], targets)
        count = int(targets.sum())
        bins.append(
            Bin(
                label,
                count,
                float((outcomes.found_by[of_bin] >= 0).mean()) if count else None,
                float(np.nanmean(values)) if count else None,
            )
        )
    return bins


def _aspect(boxes: np.ndarray) -> np.ndarray:
    return np.divide(boxes[:, 2], boxes[:, 3], out=np.ones(len(boxes)), where=boxes[:, 3] > 0)


def _crowding(ground_truth: GroundTruth, outcomes: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """Of objects: the other targets that they overlap; of a detection that is not correct, the targets that it overlaps
    but one, which it may be about."""
    targets = np.flatnonzero(outcomes.targets)
    targets = targets[np.argsort(outcomes.object_images[targets], kind="stable")]
    images = outcomes.object_images[targets]
    neighbours = np.zeros(len(outcomes.targets), dtype=np.int64)
    for one, other in pairs_within(images, images):
        overlap = box_ious(ground_truth.boxes[targets[one]], ground_truth.boxes[targets[other]])
        near = (overlap >= NEAR_IOU) & (one != other)
        neighbours += np.bincount(targets[one[near]], minlength=len(neighbours))
    found = np.bincount(outcomes.pair_detections, minlength=len(outcomes.rows))
    return neighbours, np.maximum(found - 1, 0)
