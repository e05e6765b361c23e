"""A file in reduced precision and images → the AP that it loses against the detector, and the share of its detections
that are the detector's.

Rounding to fp16 or int8 changes all scores and boxes a little, and detections near a threshold come and go. Such a file
is accepted by the AP that it loses. AP is computed with the annotations of the images; where they have none, the
detector's own detections with a score of at least `SURE` take their place.

Shapes: D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from backbones.common.errors import UserError
from detection.data.index import DatasetIndex
from detection.detector_interface import ImageDetections
from detection.evaluation.average_precision import average_precision
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.results import rounded
from detection.evaluation.stable_matching import pairwise_iou
from detection.experiment.ground_truth_loading import ground_truth_of
from detection.export.verification import Detect, Image, Verification, detection_rows, in_groups

IOU = 0.9  # at least this, and the same class, for a detection to be the detector's
SCORE = 0.1  # at most this difference of their scores
SURE = 0.5  # score of detections that stand for annotations
MAX_LOSS = 0.01  # of AP
_NO_ROWS = np.zeros((0, 7))


@dataclass(frozen=True)
class Matches:
    """How many detections of an image have their like in the other list, and the largest differences among them.

    Attributes:
        count: of pairs.
        box, score: the largest differences in pixels and in scores.
    """

    count: int
    box: float
    score: float


def matches(found: ImageDetections, expected: ImageDetections) -> Matches:
    """The pairs of one class with an IoU of at least `IOU` and scores to `SCORE`, each detection in one pair. The
    expected ones choose in descending order of score, each the one left with the highest IoU."""
    overlaps = pairwise_iou(expected.boxes.astype(np.float64), found.boxes.astype(np.float64))
    distances = np.abs(expected.scores[:, None] - found.scores)
    overlaps[(expected.labels[:, None] != found.labels) | (distances > SCORE) | ~(overlaps >= IOU)] = 0
    count, box, score = 0, 0.0, 0.0
    for row in range(len(expected) if len(found) else 0):
        best = int(overlaps[row].argmax())
        if overlaps[row, best] > 0:
            overlaps[:, best] = 0
            count += 1
            box = max(box, float(np.abs(found.boxes[best] - expected.boxes[row]).max()))
            score = max(score, float(distances[row, best]))
    return Matches(count, box, score)


class Reference:
    """The detector's detections in the images, which those of its files in reduced precision are compared with.

    Args:
        detector: what is compared with.
        images: gives the images, anew at each call; `count` of them at most.
        of: what they are, in words.
        index: their annotations, if they have any.

    Attributes:
        average_precision: the detector's AP; None if there is nothing that it could be computed with.
    """

    def __init__(
        self,
        detector: Detect,
        images: Callable[[], Iterable[Image]],
        count: int,
        *,
        of: str,
        index: DatasetIndex | None = None,
    ) -> None:
        self._images, self._count, self._of = images, count, of
        self._expected: dict[int, ImageDetections] = {}
        for together in in_groups(images(), count, "detecting"):
            for image, expected in zip(together, detector([image.pixels for image in together]), strict=True):
                self._expected[image.image_id] = expected
        self._truth = ground_truth_of(index) if index is not None else _sure_detections(self._expected)
        self._truth_is = "annotations" if index is not None else "detections"
        self.average_precision = self._average_precision(self._expected)

    def compare(self, file: Detect, what: str = "verifying") -> Verification:
        """How the detections of a file differ from the detector's. what: for the progress line."""
        result = Verification(self._of, matched=0.0, truth=self._truth_is)
        result.tolerance = {"iou": IOU, "score": SCORE}
        own: dict[int, ImageDetections] = {}
        pairs = 0
        for together in in_groups(self._images(), self._count, what):
            for image, found in zip(together, file([image.pixels for image in together]), strict=True):
                own[image.image_id] = found
                expected = self._expected[image.image_id]
                same = matches(found, expected)
                pairs += same.count
                result.images += 1
                result.detections += len(expected)
                result.box_difference = max(result.box_difference, same.box)
                result.score_difference = max(result.score_difference, same.score)
        result.matched = 2 * pairs / max(1, result.detections + sum(map(len, own.values())))
        result.average_precision = {"detector": self.average_precision, "file": self._average_precision(own)}
        return result

    def loss(self, file: Detect, what: str) -> float:
        """The AP that a file loses against the detector; negative: it gains. what: for the progress line."""
        return loss_of(self.compare(file, what))

    def _average_precision(self, found: dict[int, ImageDetections]) -> float | None:
        rows = np.concatenate([_NO_ROWS, *(detection_rows(image_id, one) for image_id, one in found.items())])
        rows = rows[np.isin(rows[:, 6], self._truth.category_ids)]  # the truth may be detections of some classes
        return average_precision(self._truth, rounded(rows)).figures["AP"]


def loss_of(result: Verification) -> float:
    """The AP that the file of a comparison loses."""
    assert result.average_precision is not None
    return (result.average_precision["detector"] or 0.0) - (result.average_precision["file"] or 0.0)


def require_small_loss(result: Verification, max_loss: float, precision: str) -> None:
    """Raises UserError if the file of a comparison loses more AP than `max_loss`, or if the detector has none that it
    could lose; notes the limit in the result. A limit of 1 or more allows everything."""
    assert result.average_precision is not None
    loss = loss_of(result)
    if not result.average_precision["detector"] and max_loss < 1:
        raise UserError(
            f"nothing is written: in {result.images} images ({result.of}) the detector finds too little for an AP that "
            "a file in reduced precision could keep; name images that show its classes (--verify)"
        )
    if not loss <= max_loss:
        raise UserError(
            f"nothing is written: in {precision} the AP on {result.images} images ({result.of}) falls by {loss:.4f}, "
            f"more than {max_loss:g}; allow more (--max-loss), or export in a higher precision"
        )
    result.tolerance["average_precision"] = max_loss


def _sure_detections(found: dict[int, ImageDetections]) -> GroundTruth:
    """The detections with a score of at least `SURE` as annotations."""
    sure = {image_id: one.above(SURE) for image_id, one in found.items()}
    rows = np.concatenate([_NO_ROWS, *(detection_rows(*item) for item in sure.items())])
    names = {
        number: name for one in sure.values() for number, name in zip(one.category_ids.tolist(), one.names, strict=True)
    }
    return GroundTruth(
        image_ids=np.array(sorted(found), dtype=np.int64),
        category_ids=np.array(sorted(names), dtype=np.int64),
        category_names=[names[number] for number in sorted(names)],
        boxes=rows[:, 1:5],
        areas=rows[:, 3] * rows[:, 4],
        crowds=np.zeros(len(rows), dtype=bool),
        object_image_ids=rows[:, 0].astype(np.int64),
        object_category_ids=rows[:, 6].astype(np.int64),
        source="the detector's own detections",
    )
