"""Feature maps + regions → one vector for each region: RoI pooling, conv5, and the mean over its output map.

Four forms: `region_features` in the plain order, `region_features_in_parts` in parts within a GPU's limits,
`region_features_convolution_first` for exported files, and `region_features_reordered` in an order that is faster on a
CPU:

conv5's first block begins with two 1×1 convolutions, its own first one and its shortcut's, each followed by batch
normalisation. If its statistics are constant, both convolutions are affine. RoIAlign is linear, so it may come before
or after them:

    weight · pool(map) + shift = pool(weight · map) + shift.

On the left the convolutions run on the P² bins of each region, on the right once on the H · W positions of the map,
which are far fewer: this saves a third of the multiply-adds of conv5. The shortcut uses only every second bin in each
direction, and only those are pooled. The shift is added last, so that the two sides are equal even for a bin beyond the
border of the map, which is pooled to zero.

RoI max-pooling is not linear, and allows only the order on the left. But its bins consist of whole cells, and
overlapping regions have most of their bins in common. The two convolutions run once on each distinct bin; for 300
proposals these are a fifth of all bins, which saves a quarter of the multiply-adds of conv5.

If the normalisation uses batch statistics, the plain order is used.

Shapes: N images, C channels, H × W map, R regions an image, P bins along a side, D distinct bins, C5 channels of conv5.
Source: Deep Residual Learning appendix A (conv5 on each region); Mask R-CNN section 3 (RoIAlign).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.blocks import Bottleneck
from backbones.normalization import FrozenBatchNorm2d, fold_weights
from backbones.pointwise import pointwise_conv2d
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.roi_max_pool import spread
from detection.kernels.roi_pooling import pool_distinct_bins, pool_regions, pool_regions_on_cpu

_BATCH = 64
"""Number of regions that run through conv5 together at inference on a CPU: as fast as all at once, and memory hardly
grows with the number of regions (1,000 regions of 1024 × 14 × 14 take 0.8 GB). Only the values that
`_distinct_bins_once` keeps grow, with the number of distinct bins of an image, which is limited."""

_MOST_POOLED = 1 << 30
"""Number of values that a GPU pools at once at inference: torchvision's kernels use 32-bit indices, and beyond 2³¹
values they return zeros without an error."""

_WIDE = 1024
"""Channels: onnxruntime pools a value by RoIAlign in the time of about 900 multiply-adds of a convolution."""

# A slice of the R regions of each image → conv5's maps (N·r, C5, …) for these r regions.
_Conv5Of = Callable[[slice], Tensor]


def region_features(pooling: RoIPooling, conv5: nn.Module, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
    """Vectors (N·R, C5) of regions (N, R, 4), in pixels of the network's input, from maps (N, C, H, W), one a level."""
    return _mean(conv5(pool_regions(pooling, maps, regions)))


def region_features_in_parts(pooling: RoIPooling, conv5: nn.Module, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
    """The same as `region_features`; at inference in parts small enough for the 32-bit indices of a GPU's kernels."""
    if _learns(conv5):
        return region_features(pooling, conv5, maps, regions)
    together = _MOST_POOLED // (maps[0].shape[1] * pooling.output_size**2)
    return _in_parts(lambda some: conv5(pool_regions(pooling, maps, regions[:, some])), regions, together)


def region_features_reordered(pooling: RoIPooling, conv5: nn.Module, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
    """The same as `region_features`, in the order with the fewest operations on a CPU."""
    if _learns(conv5):
        return _mean(_cheapest_order(pooling, conv5, maps, regions)(slice(None)))
    if len(regions) > 1 and pooling.method == "max":  # images share no bins: one image at a time takes less memory
        own = [([features[i : i + 1] for features in maps], regions[i : i + 1]) for i in range(len(regions))]
        return torch.cat([region_features_reordered(pooling, conv5, *one) for one in own])
    return _in_parts(_cheapest_order(pooling, conv5, maps, regions), regions, _BATCH)


def region_features_convolution_first(
    pooling: RoIPooling, conv5: nn.Module, maps: Sequence[Tensor], regions: Tensor
) -> Tensor:
    """The same as `region_features`, in operators that can be exported: conv5's first convolution runs on the maps if
    the pooling is linear, and if it is so wide that this saves more than the second pooling costs."""
    block = _affine_start(conv5)
    if block is None or pooling.method == "max" or block.in_channels < _WIDE:
        return region_features(pooling, conv5, maps, regions)
    weight, shift = _affine(block.conv1, block.bn1)
    opening = pool_regions(pooling, [functional.conv2d(features, weight) for features in maps], regions)
    opening = functional.relu(opening + shift[:, None, None])
    assert block.downsample is not None
    return _mean(_finish(conv5, opening, block.downsample(pool_regions(pooling, maps, regions))))


def _learns(conv5: nn.Module) -> bool:
    """Whether all regions must be processed at once: for a gradient, or for the statistics of batch normalisation."""
    return torch.is_grad_enabled() or conv5.training


def _in_parts(conv5_of: _Conv5Of, regions: Tensor, together: int) -> Tensor:
    """The vectors (N·R, C5), computed for at most `together` regions at once, over all N images."""
    images, count, _ = regions.shape
    together = max(together // images, 1)
    parts = [_mean(conv5_of(slice(start, start + together))) for start in range(0, max(count, 1), together)]
    return torch.cat([part.unflatten(0, (images, -1)) for part in parts], dim=1).flatten(0, 1)


def _cheapest_order(pooling: RoIPooling, conv5: nn.Module, maps: Sequence[Tensor], regions: Tensor) -> _Conv5Of:
    block = _affine_start(conv5)
    if block is not None and pooling.method == "max":
        return _distinct_bins_once(pooling, conv5, block, maps, regions)
    if block is not None and pooling.sampling_ratio > 0 and _is_cheaper_on_maps(block, pooling, maps, regions):
        return _convolutions_first(pooling, conv5, block, maps, regions)
    return lambda some: conv5(pool_regions_on_cpu(pooling, maps, regions[:, some]))


def _convolutions_first(
    pooling: RoIPooling, conv5: nn.Module, block: Bottleneck, maps: Sequence[Tensor], regions: Tensor
) -> _Conv5Of:
    """A function for conv5's maps, with the first block's two 1×1 convolutions run before on the whole maps."""
    (weight, shift), (shortcut_weight, shortcut_shift) = _affine_pair(block)
    openings = [pointwise_conv2d(features, weight) for features in maps]
    shortcuts = [pointwise_conv2d(features, shortcut_weight) for features in maps]

    def conv5_of(some: slice) -> Tensor:
        opening = pool_regions_on_cpu(pooling, openings, regions[:, some]).add_(shift[:, None, None])
        shortcut = pool_regions_on_cpu(pooling, shortcuts, regions[:, some], block.stride)
        shortcut.add_(shortcut_shift[:, None, None])
        return _finish(conv5, functional.relu(opening, inplace=True), shortcut)

    return conv5_of


def _distinct_bins_once(
    pooling: RoIPooling, conv5: nn.Module, block: Bottleneck, maps: Sequence[Tensor], regions: Tensor
) -> _Conv5Of:
    """A function for conv5's maps, with the first block's two 1×1 convolutions run before on all distinct bins."""
    (weight, shift), (shortcut_weight, shortcut_shift) = _affine_pair(block)
    values, index = pool_distinct_bins(pooling, maps, regions)
    looked_at, shortcut_index = index[:, :: block.stride, :: block.stride].unique(return_inverse=True)
    opening = functional.relu(functional.linear(values, weight.flatten(1), shift), inplace=True)
    shortcut = functional.linear(values.index_select(0, looked_at), shortcut_weight.flatten(1), shortcut_shift)
    index, shortcut_index = (one.unflatten(0, regions.shape[:2]) for one in (index, shortcut_index))

    def conv5_of(some: slice) -> Tensor:
        own, shortcut_own = (one[:, some].flatten(0, 1) for one in (index, shortcut_index))
        return _finish(conv5, spread(opening, own), spread(shortcut, shortcut_own))

    return conv5_of


def _finish(conv5: nn.Module, opening: Tensor, shortcut: Tensor) -> Tensor:
    """conv5's maps, from the outputs of its first block's two 1×1 convolutions (`Bottleneck.finish`)."""
    block, *later = conv5.children()
    assert isinstance(block, Bottleneck)
    pooled = block.finish(opening, shortcut)
    for one in later:
        pooled = one(pooled)
    return pooled


def _mean(pooled: Tensor) -> Tensor:
    """The mean over bins, (R, C, P, P) → (R, C). Computed with channels last, for a gradient with channels last."""
    return pooled.permute(0, 2, 3, 1).mean(dim=(1, 2))


def _affine_start(conv5: nn.Module) -> Bottleneck | None:
    """conv5's first block, if it begins with two affine 1×1 convolutions as described above; otherwise None."""
    block = next(conv5.children(), None)
    if type(block) is not Bottleneck or not isinstance(block.downsample, nn.Sequential):
        return None
    is_constant = all(isinstance(norm, (FrozenBatchNorm2d, nn.Identity)) for norm in (block.bn1, block.downsample[1]))
    return block if is_constant else None


def _affine_pair(block: Bottleneck) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Weight and shift of the block's first convolution and of its shortcut's."""
    assert isinstance(block.downsample, nn.Sequential)
    return _affine(block.conv1, block.bn1), _affine(*block.downsample)


def _affine(convolution: nn.Module, normalization: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight, and shift (C,), of a convolution with the constant normalisation after it."""
    assert isinstance(convolution, nn.Conv2d)
    dtype = convolution.weight.dtype
    weight, shift = convolution.weight, convolution.bias
    if isinstance(normalization, FrozenBatchNorm2d):
        weight, shift = fold_weights(convolution, normalization, torch.promote_types(dtype, torch.float32))
    assert shift is not None  # of the convolution that has absorbed its normalisation
    return weight.to(dtype), shift.to(dtype)


def _is_cheaper_on_maps(block: Bottleneck, pooling: RoIPooling, maps: Sequence[Tensor], regions: Tensor) -> bool:
    """Whether the two convolutions need fewer operations on the maps than on the regions' bins."""
    on_maps = sum(features.shape[0] * features.shape[2] * features.shape[3] for features in maps)
    bins, kept = pooling.output_size, -(-pooling.output_size // block.stride)
    in_regions = regions.shape[0] * regions.shape[1] * (bins**2 * block.group_width + kept**2 * block.out_channels)
    return on_maps * (block.group_width + block.out_channels) < in_regions
