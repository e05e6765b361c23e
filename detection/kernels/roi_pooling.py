"""Feature maps + regions → one small map for each region, from the level for the region's size.

Two forms: `pool_regions` uses torchvision's operators; `pool_regions_on_cpu` computes RoIAlign as matrix products
(`roi_align.py`) and RoI max-pooling once for each distinct bin (`roi_max_pool.py`).

Shapes: N images, C channels, H × W map, R regions an image, P bins along a side, D distinct bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from backbones.constants import constant
from detection.geometry.roi_pooling import RoIPooling, assign_levels
from detection.kernels.memory_order import contiguous
from detection.kernels.roi_align import roi_align
from detection.kernels.roi_max_pool import pool_distinct, roi_max_pool

# Pools boxes (R, 4) of images (R,) from one map with this stride: (R, C, P, P), or every `step`th bin of it.
PoolFromMap = Callable[[RoIPooling, Tensor, Tensor, Tensor, int, int], Tensor]


def pool_regions(pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor, step: int = 1) -> Tensor:
    """Pools regions (N, R, 4), in pixels of the network's input, from maps (N, C, H, W), one a level.

    Args:
        step: only every `step`th bin in each direction is computed, beginning with the first.

    Returns:
        (N·R, C, P, P), or (N·R, C, ceil(P / step), ceil(P / step)).
    """
    return _pool_by_level(_pool_from_map, pooling, maps, regions, step)


def pool_regions_on_cpu(pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor, step: int = 1) -> Tensor:
    """The same as `pool_regions`, faster on a CPU."""
    return _pool_by_level(_pool_from_map_on_cpu, pooling, maps, regions, step)


def pool_distinct_bins(pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
    """RoI max-pooling of regions (N, R, 4) in which a bin of several regions is pooled once.

    Returns:
        The values (D, C) of the distinct bins, and the distinct bin at each place of each region, int64 (N·R, P, P).
        `roi_max_pool.spread` turns the two into the result of `pool_regions`.
    """
    image, boxes, level = _assigned(pooling, maps, regions)

    def pooled(features: Tensor, own: Tensor | slice, stride: int) -> tuple[Tensor, Tensor]:
        corners = _inclusive(boxes[own], features)
        return pool_distinct(features, image[own], corners, pooling.output_size, 1 / stride)

    if level is None:
        return pooled(maps[0], slice(None), pooling.strides[0])
    index = torch.empty((len(boxes), pooling.output_size, pooling.output_size), dtype=torch.int64, device=boxes.device)
    values: list[Tensor] = []
    for number, (features, stride) in enumerate(zip(maps, pooling.strides, strict=True)):
        here = (level == number).nonzero().squeeze(1)
        own, own_index = pooled(features, here, stride)
        index[here] = own_index + sum(map(len, values))
        values.append(own)
    return torch.cat(values), index


def _pool_by_level(
    pool: PoolFromMap, pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor, step: int
) -> Tensor:
    image, boxes, level = _assigned(pooling, maps, regions)
    if level is None:
        return pool(pooling, maps[0], image, boxes, pooling.strides[0], step)
    side = -(-pooling.output_size // step)
    pooled = maps[0].new_zeros((boxes.shape[0], maps[0].shape[1], side, side))
    for number, (features, stride) in enumerate(zip(maps, pooling.strides, strict=True)):
        here = (level == number).nonzero().squeeze(1)
        pooled = pooled.index_copy(0, here, pool(pooling, features, image[here], boxes[here], stride, step))
    return pooled


def _assigned(pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Image (N·R,), box (N·R, 4) and level (N·R,) of each region (N, R, 4); the level is None if there is only one."""
    image = torch.arange(regions.shape[0], device=regions.device).repeat_interleave(regions.shape[1])
    boxes = regions.reshape(-1, 4)
    return image, boxes, assign_levels(boxes, pooling.strides) if len(maps) > 1 else None


def _pool_from_map(
    pooling: RoIPooling, features: Tensor, image: Tensor, boxes: Tensor, stride: int, step: int
) -> Tensor:
    import torchvision  # here, because it takes longer to import than PyTorch

    # At least single precision: in bf16 a corner near pixel 1000 would be off by up to 2 pixels.
    precise = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
    boxes = _inclusive(boxes, precise) if pooling.method == "max" else boxes.to(precise.dtype)
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    if pooling.method == "max":
        pooled = torchvision.ops.roi_pool(contiguous(precise), rois, pooling.output_size, 1 / stride)
    else:
        pooled = torchvision.ops.roi_align(
            precise, rois, pooling.output_size, 1 / stride, pooling.sampling_ratio, aligned=True
        )
    return pooled[:, :, ::step, ::step].to(features.dtype)


def _pool_from_map_on_cpu(
    pooling: RoIPooling, features: Tensor, image: Tensor, boxes: Tensor, stride: int, step: int
) -> Tensor:
    size, scale = pooling.output_size, 1 / stride
    if pooling.method == "max":
        return roi_max_pool(features, image, _inclusive(boxes, features), size, scale)[:, :, ::step, ::step]
    if pooling.sampling_ratio > 0:
        return roi_align(features, image, boxes, size, scale, pooling.sampling_ratio, step)
    return _pool_from_map(pooling, features, image, boxes, stride, step)


def _inclusive(boxes: Tensor, features: Tensor) -> Tensor:
    """Half-open boxes (R, 4) → boxes for RoI max-pooling, whose far corner is the last pixel inside, one pixel less
    (the historical +1). They have the map's precision, but at least single precision."""
    boxes = boxes.to(torch.promote_types(features.dtype, torch.float32))
    return boxes - constant((0.0, 0.0, 1.0, 1.0), boxes.device, boxes.dtype)
