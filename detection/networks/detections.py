"""Scored boxes of several images and classes → the detections of each image.

Shapes: N images, B scored boxes of all images and classes, K classes, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from detection.geometry.suppression import soft_suppress, vote
from detection.kernels.choice import Kernels


class Detections(NamedTuple):
    """The detections of one image in descending order of score: `boxes` (D, 4), `scores` (D,) in 0–1, and `labels` (D,)
    int64 in 1..K."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def on_cpu(self) -> Detections:
        """The same on the CPU, boxes and scores in float32."""
        return Detections(self.boxes.float().cpu(), self.scores.float().cpu(), self.labels.cpu())


class Candidates(NamedTuple):
    """Scored boxes before the suppression: `images` (B,) int64 in 0..N−1, `boxes` (B, 4), `scores` (B,) in 0–1, and
    `labels` (B,) int64 in 1..K."""

    images: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Suppression:
    """What is done beyond plain non-maximum suppression, which is the default.

    Attributes:
        method: "hard" drops a box that overlaps a better one, "linear" and "gaussian" lower its score (Soft-NMS).
        sigma: of the gaussian.
        min_score: Soft-NMS drops boxes whose lowered score is below this.
        across_classes: boxes of other classes suppress each other, too.
        voting_iou: a detection's box becomes the mean of the boxes of its class that overlap it this much, weighted by
            their scores; None leaves it unchanged.
    """

    method: Literal["hard", "linear", "gaussian"] = "hard"
    sigma: float = 0.5
    min_score: float = 0.001
    across_classes: bool = False
    voting_iou: float | None = None


PLAIN_NMS = Suppression()


def select_detections(
    candidates: Candidates,
    images: int,
    classes: int,
    kernels: Kernels,
    suppression: Suppression,
    *,
    nms_iou: float,
    limit: int,
) -> list[Detections]:
    """The detections of each of the N images.

    Args:
        classes: K.
        nms_iou: threshold of the suppression, within a class unless `suppression` says otherwise.
        limit: at most this many detections an image, over all classes. Boxes without area are left out.
    """
    image, boxes, scores, labels = candidates
    classwise = image * classes + labels - 1
    groups = image if suppression.across_classes else classwise
    if suppression.method == "hard":
        kept = kernels.suppress_by_group(boxes, scores, groups, nms_iou)
        kept_scores = scores[kept]
    else:
        kept, kept_scores = soft_suppress(
            boxes,
            scores,
            groups,
            decay=suppression.method,
            iou=nms_iou,
            sigma=suppression.sigma,
            min_score=suppression.min_score,
            limit=limit,
        )
    has_area = ((boxes[kept, 2:] - boxes[kept, :2]) > 0).all(dim=1)
    kept, kept_scores = kept[has_area], kept_scores[has_area]
    found = []
    for number in range(images):
        own = image[kept] == number
        index = kept[own][:limit]
        own_boxes = boxes[index]
        if suppression.voting_iou is not None:
            voters = image == number
            own_boxes = vote(
                own_boxes,
                classwise[index],
                boxes[voters],
                scores[voters],
                classwise[voters],
                iou=suppression.voting_iou,
            )
        found.append(Detections(own_boxes, kept_scores[own][:limit], labels[index]))
    return found


def joined(parts: Sequence[Candidates]) -> Candidates:
    """The candidates of several views of the same images, one after the other."""
    return Candidates(*(torch.cat(values) for values in zip(*parts, strict=True)))
