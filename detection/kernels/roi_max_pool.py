"""Feature maps + regions → RoI max-pooling on a CPU, in which each distinct bin is pooled once.

Corners are rounded to cells, so a bin is a rectangle of a few cells, and overlapping regions have many bins in common:
of the 58,800 bins of 300 proposals on a map of 38 × 50 cells (the scene of benchmarks/detector.py), 12,000 are
distinct. Only these are pooled, all channels of a cell at once, and the operations that follow on each bin (conv5's
first convolutions, `detection.kernels.region_features`) also run only on them.

Shapes: N images, C channels, H × W map, R regions of all images, P bins along a side, D distinct bins.
Source: Fast R-CNN section 2.1; the values are those of torchvision.ops.roi_pool, bitwise for finite maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from detection.kernels.memory_order import empty_channels_last


@dataclass(frozen=True)
class DistinctBins:
    """The distinct bins of a set of regions, grouped by size.

    first: (D,) int64, the upper left cell of each bin among the N · H · W cells of all maps.
    sizes: (rows, columns, count) of each group of bins, in order; 0 rows or columns for bins beyond the map.
    index: (R, P, P) int64 in 0..D-1, the distinct bin at each place of each region.
    """

    first: Tensor
    sizes: list[tuple[int, int, int]]
    index: Tensor


def roi_max_pool(features: Tensor, image: Tensor, boxes: Tensor, bins: int, scale: float) -> Tensor:
    """Pools regions from maps (N, C, H, W): (R, C, P, P) in channels-last memory. A bin without any cell gives 0.

    Args:
        image: (R,) int64, the map that each region lies on.
        boxes: (R, 4) in pixels of the image, the far corner being the last pixel inside. `scale` is in cells a pixel.
        bins: P.
    """
    return spread(*pool_distinct(features, image, boxes, bins, scale))


def pool_distinct(features: Tensor, image: Tensor, boxes: Tensor, bins: int, scale: float) -> tuple[Tensor, Tensor]:
    """The input of `spread`: the maxima (D, C) of the distinct bins, and the distinct bin at each place of each region,
    (R, P, P) int64."""
    found = distinct_bins((features.shape[0], *features.shape[2:]), image, boxes, bins, scale)
    return pool_bins(features, found), found.index


def distinct_bins(maps: tuple[int, int, int], image: Tensor, boxes: Tensor, bins: int, scale: float) -> DistinctBins:
    """The distinct bins of regions on maps of the size (N, H, W); the other arguments are those of `roi_max_pool`."""
    images, height, width = maps
    x0, y0, x1, y1 = _rounded(boxes * scale).unbind(-1)
    top, bottom = axis_ranges(y0, y1, height, bins)
    left, right = axis_ranges(x0, x1, width, bins)
    rows, columns = (bottom - top)[:, :, None], (right - left)[:, None, :]
    first = (image[:, None, None] * height + top[:, :, None]) * width + left[:, None, :]
    # One number for each bin: sorting them orders the bins by size and then by memory address. All empty bins have the
    # same number.
    name = (rows * (width + 1) + columns) * (images * height * width) + first
    names, index = name.masked_fill((rows <= 0) | (columns <= 0), 0).unique(return_inverse=True)
    size, count = (names // (images * height * width)).unique_consecutive(return_counts=True)
    sizes = [(*divmod(one, width + 1), many) for one, many in zip(size.tolist(), count.tolist(), strict=True)]
    return DistinctBins(names % (images * height * width), sizes, index)


def pool_bins(features: Tensor, bins: DistinctBins) -> Tensor:
    """The maximum over each distinct bin, (D, C), from maps (N, C, H, W)."""
    pooled: Tensor = _Maximum.apply(features, bins)
    return pooled


def spread(values: Tensor, index: Tensor) -> Tensor:
    """Values (D, C) of distinct bins → those of all regions' bins (R, P, P): (R, C, P, P) in channels-last memory."""
    everywhere: Tensor = _Spread.apply(values, index)
    return everywhere


class _Maximum(torch.autograd.Function):
    """`pool_bins` with a gradient for the maps, in channels-last memory. In each bin the whole gradient goes to the
    first of the largest cells in row order, as in torchvision."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bins: DistinctBins) -> Tensor:
        channels, _, width = features.shape[1:]
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
        pooled = cells.new_empty(len(bins.first), channels)
        for rows, columns, own in _of_each_size(bins):
            maximum, first = pooled[own], bins.first[own]
            if rows * columns == 0:
                maximum.zero_()
                continue
            torch.index_select(cells, 0, first, out=maximum)
            for offset in _offsets(rows, columns, width)[1:]:
                torch.maximum(maximum, cells.index_select(0, first + offset), out=maximum)
        ctx.save_for_backward(features, pooled)
        ctx.bins = bins
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, pooled = ctx.saved_tensors
        channels, _, width = features.shape[1:]
        cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
        result, on_maps = empty_channels_last(tuple(features.shape), gradient)
        on_cells = on_maps.zero_().view(-1, channels)
        for rows, columns, own in _of_each_size(ctx.bins):
            first, rest = ctx.bins.first[own], gradient[own]
            if rows * columns == 1:
                on_cells.index_add_(0, first, rest)
                continue
            for offset in _offsets(rows, columns, width):
                part = rest * (cells.index_select(0, first + offset) == pooled[own])
                on_cells.index_add_(0, first + offset, part)
                rest = rest - part  # 0 for the cells after the first maximum
        return result, None


class _Spread(torch.autograd.Function):
    """`spread` with a gradient for the values: the sum over the places to which a value was copied."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(values)
        channels = values.shape[1]
        result, everywhere = empty_channels_last((len(index), channels, *index.shape[1:]), values)
        torch.index_select(values, 0, index.flatten(), out=everywhere.view(-1, channels))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        index = index.flatten()
        count = index.bincount(minlength=ctx.count)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
        return functional.embedding_bag(index.argsort(stable=True), rows, count.cumsum(0) - count, mode="sum"), None


def axis_ranges(first: Tensor, last: Tensor, cells: int, bins: int) -> tuple[Tensor, Tensor]:
    """First cell of each bin along one axis, and the one after its last, both (R, P) int64, for regions from cell
    `first` to cell `last` (R,), inclusive.

    Neighbouring bins share a cell where the number of cells is no multiple of P.

    >>> axis_ranges(torch.tensor([1.0]), torch.tensor([3.0]), cells=9, bins=2)
    (tensor([[1, 2]]), tensor([[3, 4]]))
    """
    size = ((last - first + 1).clamp(min=1) / bins).unsqueeze(-1)
    number = torch.arange(bins + 1, dtype=first.dtype)
    start, stop = (number[:-1] * size).floor(), (number[1:] * size).ceil()
    start, stop = ((one + first.unsqueeze(-1)).clamp(0, cells).long() for one in (start, stop))
    return start, stop


def _of_each_size(bins: DistinctBins) -> list[tuple[int, int, slice]]:
    """For each size of bins: rows, columns, and the slice of the distinct bins that have this size."""
    found, start = [], 0
    for rows, columns, count in bins.sizes:
        found.append((rows, columns, slice(start, start + count)))
        start += count
    return found


def _offsets(rows: int, columns: int, width: int) -> list[int]:
    """The offsets of the cells of a bin from its first cell, in row order, on a map that is `width` cells wide."""
    return [down * width + across for down in range(rows) for across in range(columns)]


def _rounded(values: Tensor) -> Tensor:
    """Rounds to whole numbers, halves away from zero as in C; torch rounds them to the even number."""
    return (values.abs().double() + 0.5).floor().to(values.dtype).copysign(values)
