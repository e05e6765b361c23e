"""Boxes ↔ regression targets relative to a reference box (an anchor or a proposal).

The target is (Δx / w, Δy / h, log(w' / w), log(h' / h)) of the centres and sides, minus `means`, divided by `stds`.
Source: R-CNN appendix C; py-faster-rcnn `bbox_transform.py`, without its +1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backbones.constants import constant

MAX_LOG_SCALE = math.log(1000 / 16)
"""A predicted side is at most 62.5 times the reference's, so that exp() does not overflow for an untrained network
(Detectron's BBOX_XFORM_CLIP)."""


class BoxCoder:
    """Boxes ↔ targets relative to reference boxes.

    Args:
        stds: divisors of the four raw targets; with (.1, .1, .2, .2) those of a region classifier have a standard
            deviation of about 1.
        means: subtracted from the raw targets before the division.
    """

    def __init__(
        self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0), means: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    ) -> None:
        if len(stds) != 4 or len(means) != 4 or min(stds) <= 0:
            raise ValueError(f"four positive stds and four means are needed, got {stds} and {means}")
        self.stds = tuple(float(std) for std in stds)
        self.means = tuple(float(mean) for mean in means)

    def encode(self, boxes: Tensor, reference: Tensor) -> Tensor:
        """Targets (..., 4) of `boxes` (..., 4) relative to `reference` (..., 4). Sides are at least 1e-6 pixels, so
        that the targets are finite.

        >>> BoxCoder().encode(torch.tensor([5.0, 0.0, 15.0, 10.0]), torch.tensor([0.0, 0.0, 10.0, 10.0]))
        tensor([0.5000, 0.0000, 0.0000, 0.0000])
        """
        size, reference_size = _size(boxes).clamp(min=1e-6), _size(reference).clamp(min=1e-6)
        shift = (_centre(boxes) - _centre(reference)) / reference_size
        targets = torch.cat([shift, torch.log(size / reference_size)], dim=-1)
        means, stds = self._statistics(targets)
        return (targets - means) / stds

    def decode(self, targets: Tensor, reference: Tensor) -> Tensor:
        """Boxes (..., 4) from `targets` (..., 4) relative to `reference` (..., 4), in at least float32."""
        if targets.dtype in (torch.float16, torch.bfloat16):
            targets = targets.float()  # bf16 cannot resolve half a pixel in 1000
        means, stds = self._statistics(targets)
        targets = targets * stds + means
        reference_size = _size(reference)
        centre = targets[..., :2] * reference_size + _centre(reference)
        half = torch.exp(targets[..., 2:].clamp(max=MAX_LOG_SCALE)) * reference_size / 2
        return torch.cat([centre - half, centre + half], dim=-1)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return constant(self.means, like.device, like.dtype), constant(self.stds, like.device, like.dtype)


def _size(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]


def _centre(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
