"""Predictions for regions and their targets → the class and box loss of each region.

Shapes: N images, S regions an image, K classes, k = K boxes a region, or 1 for all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from detection.geometry.coding import BoxCoder
from detection.networks.box_loss import BoxLoss


class Targets(NamedTuple):
    """The sampled regions and their targets: `regions` (N, S, 4), `labels` (N, S) with 0 for background, `boxes` (N, S,
    4), the ground truth each region is assigned to, and `valid` (N, S), False where an image has fewer than S."""

    regions: Tensor
    labels: Tensor
    boxes: Tensor
    valid: Tensor


class RegionLoss(nn.Module):
    """The losses of the Fast R-CNN: cross-entropy of the classes, and a loss of the box of the region's own class.

    Args:
        box: the loss of the boxes.
        class_weights: (K + 1,) factor of the class loss for each label, background first; None: all are 1.
    """

    class_weights: Tensor | None

    def __init__(self, box: BoxLoss, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.box = box
        self.register_buffer("class_weights", class_weights, persistent=False)  # of the training set, not of a file

    def of_each(self, logits: Tensor, targets: Tensor, goal: Targets, coder: BoxCoder) -> tuple[Tensor, Tensor]:
        """Class loss and box loss of each region, (N, S) both, zero where a region is not valid.

        Args:
            logits: (N·S, K + 1). targets: (N·S, k, 4), as `coder` encodes them.
        """
        labels = goal.labels.flatten()
        mistake = functional.cross_entropy(logits, labels, self.class_weights, reduction="none")
        own_class = (labels - 1).clamp(min=0, max=targets.shape[1] - 1)[:, None, None].expand(-1, 1, 4)
        predicted = targets.gather(1, own_class).squeeze(1)
        is_object = ((goal.labels > 0) & goal.valid).flatten()
        distance = self.box(predicted, goal.boxes.flatten(0, 1), goal.regions.flatten(0, 1), is_object, coder)
        return mistake.view_as(goal.labels) * goal.valid, distance.view_as(goal.labels)

    def forward(self, logits: Tensor, targets: Tensor, goal: Targets, coder: BoxCoder) -> dict[str, Tensor]:
        """Losses of each image, (N,): "class" and "box", both divided by the number of its valid regions."""
        mistake, distance = self.of_each(logits, targets, goal, coder)
        number = goal.valid.sum(dim=1).clamp(min=1)
        return {"class": mistake.sum(dim=1) / number, "box": distance.sum(dim=1) / number}


def class_balanced_weights(counts: Sequence[int], beta: float) -> Tensor:
    """Weights (K + 1,) of the class loss for classes with `counts` objects in the training set, background first.

    A class of n objects has the weight (1 − β) / (1 − βⁿ), the inverse of its effective number, scaled so that the
    classes that have objects have a mean weight of 1. The background, which has no count, has 1; so have classes
    without objects.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", section 4.1.

    >>> class_balanced_weights([10, 1000, 0], 0.999)
    tensor([1.0000, 1.9691, 0.0309, 1.0000])
    """
    number = torch.tensor(counts, dtype=torch.float64)
    inverse = (1 - beta) / (1 - beta ** number.clamp(min=1))
    has_objects = number > 0
    if has_objects.any():
        inverse = inverse / inverse[has_objects].mean()
    weights = torch.where(has_objects, inverse, 1.0)
    return torch.cat([torch.ones(1, dtype=torch.float64), weights]).float()
