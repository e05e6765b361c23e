"""What the rules of the advice look at, their limits, and the sentence that a rule makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Every limit of a rule. AP is AP at IoU 0.5; recall is at IoU 0.5.
LIMITS: dict[str, float] = {
    "nothing_found": 0.02,  # AP below which nothing else is worth saying
    "exchanged_share": 0.5,  # of a class's objects are detected as one other class, and more than as their own
    "confusion_share": 0.1,  # of all mistakes are one pair of classes
    "kind_cost": 0.03,  # AP that a kind of mistake takes
    "missing_share": 0.15,  # of a class's confident detections lie where nothing is annotated
    "rate_share": 0.7,  # of the objects of a class that an image has in the other split
    "rate_chance": 0.01,  # that a class looks rarer in a split although the images were divided at random
    "trusted_recall": 0.5,  # of the objects are found: a detector that overlooks more says little about labels
    "unfound_share": 0.02,  # of all objects are found by no detection, at sizes that are found as a rule
    "offset": 0.1,  # of a box's side, by which detections lie beside the annotated boxes in the median
    "scale": 1.25,  # factor by which the sides of detections and annotated boxes differ in the median
    "proposal_recall": 0.85,  # of the objects of a size
    "sound_classifier": 0.5,  # AP with the objects as proposals, where without them nothing is found
    "proposal_cost": 0.03,  # AP that the detector gains with the objects as proposals
    "anchor_recall": 0.5,  # of the objects of a size are reached by an anchor at IoU 0.5
    "small_side": 32,  # pixels of the network's input: larger images help objects that are smaller
    "more_proposals": 0.1,  # of the recall is due to the second half of the proposals
    "size_recall": 0.75,  # recall of a size, as a share of the recall of all
    "class_ap": 0.5,  # AP of a class, as a share of the mean
    "calibration_bias": 0.1,  # mean score minus share of correct detections
    "still_rising": 0.02,  # AP, as a share, gained in the last fifth of the training
    "fewest_objects": 10,  # below which a share says little
    "few_classes": 0.3,  # of the classes have fewer objects than that
}


class Sentence(NamedTuple):
    """text: what was seen and what helps. stake: the AP that it is about, at most; `DATA` and above come first."""

    text: str
    stake: float


DATA = 2.0  # above every AP


class RarerLabels(NamedTuple):
    """A class that one split has fewer objects of than chance explains: objects an image in train and in test."""

    name: str
    train: float
    test: float


@dataclass(frozen=True)
class Seen:
    """The `to_dict()` of the figures, the analysis (see `detection.experiment.analysis`), names of test images that
    also stand in train, the curves of the training, values of the configuration by key, as far as they are known, and
    classes that are rarer in one of the splits."""

    outcome: Mapping[str, Any]
    analysis: Mapping[str, Any]
    shared_images: Sequence[str] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rarer: Sequence[RarerLabels] = ()

    @property
    def ap(self) -> float:
        """AP at IoU 0.5."""
        return self.outcome["figures"]["AP50"] or 0.0

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return [row["name"] for row in self.outcome["classes"]]

    def cost(self, kind: str) -> float:
        """The AP that a kind of mistake takes."""
        return float(self.analysis["errors"]["costs"].get(kind, 0.0))

    def now(self, key: str) -> str:
        """The key, and its value if it is known.

        >>> Seen({}, {}, settings={"fast_rcnn.nms_iou": 0.5}).now("fast_rcnn.nms_iou")
        'fast_rcnn.nms_iou, now 0.5'
        """
        return f"{key}, now {self.settings[key]}" if key in self.settings else key
