"""Outcomes of detections → whether the boxes of detections and of annotations differ in one direction.

A detector errs to all sides. Where most of its boxes lie, say, to the left of the annotated ones, the two follow
different conventions: centres taken for corners, boxes of images of another size, an offset of the annotation tool.

Shapes: D detections, S objects, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.outcomes import Outcomes

DIRECTIONS = ("x", "y", "width", "height")


@dataclass(frozen=True)
class BoxOffsets:
    """quartiles: for each of `DIRECTIONS` the three quartiles over `objects` objects; none without objects.

    x, y: the detection's centre minus the object's, in widths and heights of the object; above 0: the detection lies to
    the right, or below. width, height: the detection's divided by the object's.
    """

    objects: int
    quartiles: dict[str, list[float]]

    def to_dict(self) -> dict[str, int | dict[str, list[float]]]:
        """Everything as plain numbers, lists and dicts, for JSON."""
        return {"objects": self.objects, "quartiles": self.quartiles}


def box_offsets(ground_truth: GroundTruth, outcomes: Outcomes) -> BoxOffsets:
    """Compares each object with the detection of its class that has the best score among those that overlap no other
    object of their class more, by at least 0.1."""
    pair, thing = outcomes.pair_detections, outcomes.pair_objects
    sized = (ground_truth.boxes[thing, 2:] > 0).all(axis=1)
    same = np.flatnonzero((outcomes.classes[pair] == outcomes.object_classes[thing]) & sized)
    same = same[np.diff(pair[same], prepend=-1) != 0]  # of each detection the object that it overlaps most
    _, best = np.unique(thing[same], return_index=True)  # pairs are in order of score
    found, true = outcomes.boxes[pair[same[best]]], ground_truth.boxes[thing[same[best]]]
    if not len(found):
        return BoxOffsets(0, {})
    centres = (found[:, :2] + found[:, 2:] / 2 - true[:, :2] - true[:, 2:] / 2) / true[:, 2:]
    values = np.column_stack([centres, found[:, 2:] / true[:, 2:]])
    quartiles = np.quantile(values, [0.25, 0.5, 0.75], axis=0).T.tolist()
    return BoxOffsets(len(found), dict(zip(DIRECTIONS, quartiles, strict=True)))
