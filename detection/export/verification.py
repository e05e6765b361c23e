"""Two detectors and images → whether both find the same, or an error that names the images in which they do not.

The detections of an image are the same if they agree in number and classes, in their order up to ties, in their boxes
to `BOX` pixels and in their scores to `SCORE`.

Rounding can decide between two detections: where two proposals or boxes tie, as in an image of one colour, or where a
score is at a threshold. PyTorch's own forms of the same operators then differ among each other. Such an image is called
undecided if the detector itself finds something else when it is computed by other forms (`runtime.kernels=plain`), or
when its weights, proposals and scores are changed by their rounding.

Shapes: D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.progress import with_progress
from backbones.common.text import printable
from detection.data.index import DatasetIndex
from detection.detector_interface import ImageDetections
from detection.evaluation.average_precision import average_precision
from detection.evaluation.results import rounded
from detection.experiment.ground_truth_loading import ground_truth_of

BOX = 0.5  # pixels of the image
SCORE = 1e-3
_MOST_UNDECIDED = 0.1  # of the images
_TOGETHER = 4  # images given to a detector at once
_SHOWN = 5  # images that a message names

# Images uint8 (H, W, 3) → the detections in each.
Detect = Callable[[list[np.ndarray]], Sequence[ImageDetections]]
Difference = tuple[float, float]  # the largest of boxes in pixels, and of scores


@dataclass(frozen=True)
class Image:
    """An image to detect in: its name in messages, its id in the annotations or a number, and its pixels."""

    name: str
    image_id: int
    pixels: np.ndarray


@dataclass
class Verification:
    """What was compared, and how it differed.

    Attributes:
        images, detections: their numbers.
        undecided: images in which rounding decides.
        box_difference, score_difference: the largest, in pixels and in scores, over all other images.
        average_precision: AP of the detector and of the file on these images, if they have annotations.
        of: where the images are from.
        matched: of a file in reduced precision, the share of the detections of both that have their like in the other
            (`detection.export.reduced`); the differences are those of these.
        truth: what AP was computed with, "annotations", or "detections" of the detector itself.
        tolerance: what was allowed.
    """

    of: str
    images: int = 0
    detections: int = 0
    undecided: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0
    average_precision: dict[str, float | None] | None = None
    matched: float | None = None
    truth: str = "annotations"
    tolerance: dict[str, float] = field(default_factory=lambda: {"box": BOX, "score": SCORE})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """In words, of one or two lines."""
        of_these = ""
        if self.matched is not None:
            of_these = (
                f"{self.matched:.1%} have their like in the file's (the same class, IoU {self.tolerance['iou']:g}, "
                f"scores to {self.tolerance['score']:g}), among these "
            )
        text = (
            f"verified on {self.images} images ({self.of}): {self.detections} detections, {of_these}the largest "
            f"differences {self.box_difference:.2g} pixels and {self.score_difference:.2g} in scores"
        )
        if self.undecided:
            text += f"; in {self.undecided} more images rounding decides, in PyTorch too"
        if self.average_precision is not None:
            both = (f"{value:.4f}" if value is not None else "—" for value in self.average_precision.values())
            on = "these images" if self.truth == "annotations" else "the detector's own surest detections"
            text += "\nAP on {}: detector {}, file {}".format(on, *both)
        return text


def difference(found: ImageDetections, expected: ImageDetections) -> Difference | str:
    """The largest differences of the boxes and scores of one image, or in words what is not the same."""
    if len(found) != len(expected):
        return f"{len(found)} detections instead of {len(expected)}"
    left = np.ones(len(found), dtype=bool)
    box_difference = score_difference = 0.0
    for box, score, label, name in zip(expected.boxes, expected.scores, expected.labels, expected.names, strict=True):
        scores = np.abs(found.scores - score)
        candidates = np.flatnonzero(left & (found.labels == label) & (scores <= SCORE))
        distances = np.abs(found.boxes[candidates] - box).max(axis=1, initial=0)
        if not len(candidates) or not distances.min() <= BOX:  # not so for NaN
            return f"no {printable(name)} of score {score:.4f} at {[round(side, 1) for side in box.tolist()]}"
        nearest = candidates[distances.argmin()]
        left[nearest] = False
        box_difference = max(box_difference, float(distances.min()))
        score_difference = max(score_difference, float(scores[nearest]))
    return box_difference, score_difference


def verify(
    file: Detect,
    detector: Detect,
    rounded_otherwise: Sequence[Detect],
    images: Iterable[Image],
    count: int,
    *,
    of: str,
    index: DatasetIndex | None = None,
) -> Verification:
    """Compares the detections of a file with those of the detector.

    Args:
        file, detector: what is compared.
        rounded_otherwise: the detector with other rounding, which shows where rounding decides.
        images: `count` of them at most.
        of: what they are, in words.
        index: the annotations of the images, for AP.

    Raises:
        UserError: the two differ in an image in which rounding does not decide, or too many images are undecided, or
            there is nothing to compare.
    """
    result = Verification(of)
    differing: list[str] = []
    rows: dict[str, list[np.ndarray]] = {"detector": [], "file": []}
    for together in in_groups(images, count, "verifying"):
        pixels = [image.pixels for image in together]
        for image, found, expected in zip(together, file(pixels), detector(pixels), strict=True):
            result.images += 1
            result.detections += len(expected)
            rows["detector"].append(detection_rows(image.image_id, expected))
            rows["file"].append(detection_rows(image.image_id, found))
            outcome = difference(found, expected)
            if isinstance(outcome, str) and _rounding_decides(image, expected, rounded_otherwise):
                result.undecided += 1
            elif isinstance(outcome, str):
                differing.append(f"{printable(image.name)}: {outcome}")
            else:
                result.box_difference = max(result.box_difference, outcome[0])
                result.score_difference = max(result.score_difference, outcome[1])
    _require_same(result, differing)
    if index is not None:
        truth = ground_truth_of(index)
        result.average_precision = {
            name: average_precision(truth, rounded(np.concatenate(own))).figures["AP"] for name, own in rows.items()
        }
    return result


def _rounding_decides(image: Image, expected: ImageDetections, rounded_otherwise: Sequence[Detect]) -> bool:
    again = (detect([image.pixels])[0] for detect in rounded_otherwise)
    return any(isinstance(difference(found, expected), str) for found in again)


def _require_same(result: Verification, differing: list[str]) -> None:
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"nothing is written: the exported network does not detect the same as the detector in {len(differing)} of "
            f"{result.images} images ({result.of}): {'; '.join(differing[:_SHOWN])}{more}. This is a defect of the "
            "export or of a package that it uses; please report it with the versions of torch, onnx and onnxruntime"
        )
    if not result.detections:
        raise UserError(
            f"nothing is written: in {result.images} images ({result.of}) the detector finds nothing, so that they "
            "prove nothing about the file; name images that show its classes (--verify)"
        )
    if result.undecided > _MOST_UNDECIDED * result.images:
        raise UserError(
            f"nothing is written: in {result.undecided} of {result.images} images ({result.of}) rounding decides what "
            "is detected, so that they prove little about the file; name other images (--verify)"
        )


def in_groups(images: Iterable[Image], count: int, what: str) -> Iterator[list[Image]]:
    """The images, some at a time, with a progress line. count: of them at most; what: happens to them."""
    progress = iter(with_progress(images, count, what))
    while together := list(islice(progress, _TOGETHER)):
        yield together


def detection_rows(image_id: int, found: ImageDetections) -> np.ndarray:
    """The detections of an image as rows of `detection.evaluation.results`."""
    x0, y0, x1, y1 = found.boxes.astype(np.float64).T
    return np.stack(
        [np.full(len(x0), image_id), x0, y0, x1 - x0, y1 - y0, found.scores.astype(np.float64), found.category_ids],
        axis=1,
    )
