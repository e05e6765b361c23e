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
from detection.geometry.tensors import contiguous
from detection.kernels.roi_align import roi_align
from detection.kernels.roi_max_pool import pool_distinct, roi_max_pool

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

    def shares_bins(self, features: Tensor) -> bool:
        """Whether `distinct` can be asked for bins of this map: RoI max-pooling on a CPU."""
        return self.method == "max" and features.device.type == "cpu"

    def distinct(self, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled bins (D, C) of regions (N, R, 4), each bin that several regions have once, and which of them each
        region has where, (N·R, P, P) int64. `spread` makes of the two what `forward` returns."""
        image, boxes, level = self._placed(maps, regions)
        if level is None:
            return self._distinct(maps[0], image, boxes, self.strides[0])
        index = torch.empty((len(boxes), self.output_size, self.output_size), dtype=torch.int64)
        values: list[Tensor] = []
        for number, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = (level == number).nonzero().squeeze(1)
            own, own_index = self._distinct(features, image[here], boxes[here], stride)
            index[here] = own_index + sum(map(len, values))
            values.append(own)
        return torch.cat(values), index

    def forward(self, maps: Sequence[Tensor], regions: Tensor, step: int = 1) -> Tensor:
        """Pools regions (N, R, 4), in pixels of the network's input, from maps (N, C, H, W), one a level.

        Args:
            step: only every so many bins in each direction are wanted, from the first on.

        Returns:
            (N·R, C, P, P), or (N·R, C, ceil(P / step), ceil(P / step)).
        """
        image, boxes, level = self._placed(maps, regions)
        if level is None:
            return self._pool(maps[0], image, boxes, self.strides[0], step)
        side = -(-self.output_size // step)
        pooled = maps[0].new_zeros((len(boxes), maps[0].shape[1], side, side))
        for number, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            here = (level == number).nonzero().squeeze(1)
            pooled = pooled.index_copy(0, here, self._pool(features, image[here], boxes[here], stride, step))
        return pooled

    def _placed(self, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image (N·R,), box (N·R, 4) and, where there are several, level (N·R,) of each region (N, R, 4)."""
        image = torch.arange(len(regions), device=regions.device).repeat_interleave(regions.shape[1])
        boxes = regions.reshape(-1, 4)
        return image, boxes, self._levels(boxes) if len(maps) > 1 else None

    def _distinct(self, features: Tensor, image: Tensor, boxes: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        return pool_distinct(features, image, _inclusive(boxes, features), self.output_size, 1 / stride)

    def _pool(self, features: Tensor, image: Tensor, boxes: Tensor, stride: int, step: int) -> Tensor:
        if self.is_linear(features):
            return roi_align(features, image, boxes, self.output_size, 1 / stride, self.sampling_ratio, step)
        if self.shares_bins(features):
            pooled = roi_max_pool(features, image, _inclusive(boxes, features), self.output_size, 1 / stride)
            return pooled[:, :, ::step, ::step]
        # In single precision at least: a corner at pixel 1000 would be off by 4 pixels in bf16.
        precise = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        boxes = _inclusive(boxes, precise) if self.method == "max" else boxes.to(precise.dtype)
        rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        if self.method == "max":
            pooled = torchvision.ops.roi_pool(contiguous(precise), rois, self.output_size, 1 / stride)
        else:
            pooled = torchvision.ops.roi_align(
                precise, rois, self.output_size, 1 / stride, self.sampling_ratio, aligned=True
            )
        return pooled[:, :, ::step, ::step].to(features.dtype)

    def _levels(self, boxes: Tensor) -> Tensor:
        """The level for each box (R, 4): 224-pixel boxes go to stride 16, each halving of the side one level down (FPN
        equation 1)."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
        finest = math.log2(self.strides[0])
        level = torch.floor(4 + torch.log2(side / 224) + 1e-6) - finest
        return level.nan_to_num().clamp(0, len(self.strides) - 1).long()


def _inclusive(boxes: Tensor, features: Tensor) -> Tensor:
    """Half-open boxes (R, 4) as RoI max-pooling takes them, the far corner being the last pixel inside: one pixel
    earlier (the historical +1). In the map's precision, but in single precision at least."""
    boxes = boxes.to(torch.promote_types(features.dtype, torch.float32))
    return boxes - constant((0.0, 0.0, 1.0, 1.0), boxes.device, boxes.dtype)
