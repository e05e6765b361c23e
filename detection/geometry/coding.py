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
"""A predicted side grows at most 62.5-fold: exp() of an untrained network must not overflow (Detectron's
BBOX_XFORM_CLIP)."""


class BoxCoder:
    """Encodes boxes against reference boxes and decodes them again.

    Args:
        stds: what the four raw targets are divided by; (.1, .1, .2, .2) makes those of a region classifier about
            unit-sized.
        means: what is taken off the raw targets before that.
    """

    def __init__(
        self, stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0), means: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    ) -> None:
        if len(stds) != 4 or len(means) != 4 or min(stds) <= 0:
            raise ValueError(f"four positive stds and four means are needed, got {stds} and {means}")
        self.stds = tuple(float(std) for std in stds)
        self.means = tuple(float(mean) for mean in means)

    def encode(self, boxes: Tensor, reference: Tensor) -> Tensor:
        """Targets (..., 4) of `boxes` (..., 4) seen from `reference` (..., 4). Sides below a millionth of a pixel are
        taken as that: always finite.

        >>> BoxCoder().encode(torch.tensor([5.0, 0.0, 15.0, 10.0]), torch.tensor([0.0, 0.0, 10.0, 10.0]))
        tensor([0.5000, 0.0000, 0.0000, 0.0000])
        """
        size, reference_size = _size(boxes).clamp(min=1e-6), _size(reference).clamp(min=1e-6)
        shift = (_centre(boxes) - _centre(reference)) / reference_size
        targets = torch.cat([shift, torch.log(size / reference_size)], dim=-1)
        means, stds = self._statistics(targets)
        return (targets - means) / stds

    def decode(self, targets: Tensor, reference: Tensor) -> Tensor:
        """Boxes (..., 4) that `targets` (..., 4) describe as seen from `reference` (..., 4), in float32 at least."""
        if targets.dtype in (torch.float16, torch.bfloat16):
            targets = targets.float()  # half a pixel in 1000 is beyond bf16
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
