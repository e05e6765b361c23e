"""Predicted box targets and ground-truth boxes → the loss of each box: smooth L1 of the targets, or an IoU loss of the
decoded boxes.

Sources: Fast R-CNN section 2.3 (smooth L1); Rezatofighi et al., "Generalized Intersection over Union", algorithm 2
(1 − IoU and 1 − GIoU); Zheng et al., "Distance-IoU Loss", sections 3.2 and 3.3 (DIoU, CIoU). The last three are
torchvision's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from detection.geometry.coding import BoxCoder

BoxLossKind: TypeAlias = Literal["smooth_l1", "iou", "giou", "diou", "ciou"]


def iou_loss(boxes: Tensor, ground_truth: Tensor) -> Tensor:
    """1 − IoU of each of the boxes (..., 4) with the ground truth (..., 4) in the same place: (...,)."""
    corner = torch.maximum(boxes[..., :2], ground_truth[..., :2])
    shared = (torch.minimum(boxes[..., 2:], ground_truth[..., 2:]) - corner).clamp(min=0).prod(dim=-1)
    areas = ((one[..., 2:] - one[..., :2]).prod(dim=-1) for one in (boxes, ground_truth))
    return 1 - shared / (sum(areas) - shared + 1e-7)


def _loss_of(kind: BoxLossKind) -> Callable[[Tensor, Tensor], Tensor]:
    if kind == "iou":
        return iou_loss
    from torchvision import ops  # here: inference does without it, see `detection.kernels.torchvision_nms`

    losses = {
        "giou": ops.generalized_box_iou_loss,
        "diou": ops.distance_box_iou_loss,
        "ciou": ops.complete_box_iou_loss,
    }
    return losses[kind]


class BoxLoss:
    """The loss of the box regression.

    Args:
        kind: smooth L1 of the targets, or an IoU loss of the decoded boxes.
        beta: where smooth L1 turns from quadratic to linear (1 / σ²).
        weight: factor of the loss.
    """

    def __init__(self, kind: BoxLossKind = "smooth_l1", *, beta: float = 1.0, weight: float = 1.0) -> None:
        self.kind = kind
        self.beta = beta
        self.weight = weight

    def __call__(
        self, targets: Tensor, ground_truth: Tensor, reference: Tensor, is_object: Tensor, coder: BoxCoder
    ) -> Tensor:
        """The loss of each box, (...,), zero and without a gradient where `is_object` (...,) is False.

        Args:
            targets: (..., 4) as predicted, relative to `reference` (..., 4) as `coder` encodes them.
            ground_truth: (..., 4); where `is_object` is False it may be anything.
        """
        if self.kind == "smooth_l1":
            goal = coder.encode(ground_truth, reference)
            loss = functional.smooth_l1_loss(targets, goal, beta=self.beta, reduction="none").sum(dim=-1)
        else:
            # The derivatives of an IoU may be infinite at a box without area, and zero times infinity is no number:
            # where there is no object, the loss is taken of a box that has one.
            unit = reference.new_tensor([0.0, 0.0, 1.0, 1.0])
            chosen = is_object[..., None]
            boxes = coder.decode(torch.where(chosen, targets, 0), torch.where(chosen, reference, unit))
            loss = _loss_of(self.kind)(boxes, torch.where(chosen, ground_truth, unit))
        return torch.where(is_object, loss, 0) * self.weight
