"""Feature maps + regions → one small map for each region.

Shapes: N images, C channels, H × W map, R regions an image, P bins along a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn

from backbones.constants import constant
from detection.geometry.roi_align import roi_align
from detection.geometry.roi_max_pool import roi_max_pool
from detection.geometry.tensors import contiguous

Method = Literal["align", "max"]


class RegionPooler(nn.Module):
    """Pools each region from the level that suits its size.

    Args:
        method: "max" is the paper's RoI max-pooling (Fast R-CNN section 2.1), "align" is RoIAlign (Mask R-CNN section
            3), aligned to pixel centres.
        output_size: P, bins along a side.
        strides: pixels a cell, per feature level, ascending.
        sampling_ratio: RoIAlign's samples along a bin's side; 0 takes as many as the bin has cells.
    """

    def __init__(self, method: Method, output_size: int, strides: Sequence[int], sampling_ratio: int = 2) -> None:
        super().__init__()
        if method not in ("align", "max"):
            raise ValueError(f"RoI pooling method {method!r} is neither 'align' nor 'max'")
        self.method = method
        self.output_size = output_size
        self.strides = list(strides)
        self.sampling_ratio = sampling_ratio

    def is_linear(self, features: Tensor) -> bool:
        """Whether pooling from this map is linear in it, and bins left out cost nothing: RoIAlign as matrix
        products."""
        return self.method == "align" and self.sampling_ratio > 0 and features.device.type == "cpu"

    def forward(self, maps: Sequence[Tensor], regions: Tensor, step: int = 1) -> Tensor:
        """Pools regions (N, R, 4), in pixels of the network's input, from maps (N, C, H, W), one a level.

        Args:
            step: only every so many bins in each direction are wanted, from the first on.

        Returns:
            (N·R, C, P, P), or (N·R, C, ceil(P / step), ceil(P / step)).
        """
        images, count, _ = regions.shape
        image = torch.arange(images, device=regions.device).repeat_interleave(count)
        boxes = regions.reshape(-1, 4)
        if len(maps) == 1:
            return self._pool(maps[0], image, boxes, self.strides[0], step)
        level = self._levels(boxes)
        side = -(-self.output_size // step)
        pooled = maps[0].new_zeros((len(boxes), maps[0].shape[1], side, side))
        for number, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = (level == number).nonzero().squeeze(1)
            pooled = pooled.index_copy(0, here, self._pool(features, image[here], boxes[here], stride, step))
        return pooled

    def _pool(self, features: Tensor, image: Tensor, boxes: Tensor, stride: int, step: int) -> Tensor:
        if self.is_linear(features):
            return roi_align(features, image, boxes, self.output_size, 1 / stride, self.sampling_ratio, step)
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        # In single precision at least: a corner at pixel 1000 would be off by 4 pixels in bf16.
        precise = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        rois = rois.to(precise.dtype)
        if self.method == "align":
            pooled = torchvision.ops.roi_align(
                precise, rois, self.output_size, 1 / stride, self.sampling_ratio, aligned=True
            )
        else:
            # The operator takes the far corner as the last pixel inside (the historical +1); our boxes are half-open,
            # so that is one pixel earlier.
            inclusive = rois - constant((0.0, 0.0, 0.0, 1.0, 1.0), rois.device, rois.dtype)
            if precise.device.type == "cpu" and not (precise.requires_grad and torch.is_grad_enabled()):
                pooled = roi_max_pool(precise, image, inclusive[:, 1:], self.output_size, 1 / stride)
            else:
                pooled = torchvision.ops.roi_pool(contiguous(precise), inclusive, self.output_size, 1 / stride)
        return pooled[:, :, ::step, ::step].to(features.dtype)

    def _levels(self, boxes: Tensor) -> Tensor:
        """The level for each box (R, 4): 224-pixel boxes go to stride 16, each halving of the side one level down (FPN
        equation 1)."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
        finest = math.log2(self.strides[0])
        level = torch.floor(4 + torch.log2(side / 224) + 1e-6) - finest
        return level.clamp(0, len(self.strides) - 1).long()
