"""Sizes and ratios → anchors at every position of every feature level.

An anchor of size s and ratio r (height / width) has area s² and is centred on its cell: cell (row, column) of a level
of stride t covers the pixels from t·column to t·(column + 1), so its centre is at t·(column + ½). Anchors are ordered
by row, then column, then (size, ratio) within the cell: the order in which an (N, A·c, H, W) map is read after
permuting it to (N, H, W, A, c).

Source: Faster R-CNN section 3.1.1; py-faster-rcnn `generate_anchors.py`, which rounds to whole pixels and uses the +1
convention; here the default is not to round. Weights that were trained on torchvision's anchors (`anchor_utils.py`)
need an offset of 0 and rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred at the origin: (len(sizes)·len(ratios), 4), size-major.

    >>> cell_anchors([64], [1.0])
    tensor([[-32., -32.,  32.,  32.]])
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    if size.is_meta:  # a network is built without memory; there the root would load PyTorch's compiler
        return torch.empty(len(sizes) * len(ratios), 4)
    root = torch.tensor(ratios, dtype=torch.float64).sqrt()[None, :]
    half_width, half_height = (size / root / 2).flatten(), (size * root / 2).flatten()
    return torch.stack([-half_width, -half_height, half_width, half_height], dim=1).float()


def grid_anchors(cell: Tensor, height: int, width: int, stride: int, offset: float = 0.5) -> Tensor:
    """`cell` (A, 4) repeated over a map of height × width cells of `stride` pixels: (height·width·A, 4).

    offset: where in its cell an anchor's centre lies, as a share of the stride: 0 is the upper left corner.
    """
    y = (torch.arange(height, device=cell.device, dtype=cell.dtype) + offset) * stride
    x = (torch.arange(width, device=cell.device, dtype=cell.dtype) + offset) * stride
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
    return (centres[:, :, None] + cell).reshape(-1, 4)


class Anchors(nn.Module):
    """Feature maps of several levels → anchors at every position.

    Args:
        sizes: per level, the square roots of the anchors' areas in pixels.
        ratios: height / width, the same at each level.
        strides: per level, pixels a cell.
        offset: where in its cell an anchor's centre lies, as a share of the stride.
        rounded: round the corners of a cell's anchors to whole pixels.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        *,
        offset: float = 0.5,
        rounded: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) != len(strides):
            raise ValueError(
                f"{len(sizes)} lists of anchor sizes for {len(strides)} feature levels: one list a level is needed"
            )
        counts = {len(level) * len(ratios) for level in sizes}
        if len(counts) != 1:
            raise ValueError(f"every level needs the same number of anchors a position, got {sorted(counts)}")
        self.per_position = counts.pop()
        self.strides = list(strides)
        self.offset = offset
        for level, level_sizes in enumerate(sizes):
            cell = cell_anchors(level_sizes, ratios)
            self.register_buffer(f"cell{level}", cell.round() if rounded else cell, persistent=False)

    def names(self, maps: Sequence[Tensor]) -> Tensor:
        """A number for each anchor, (A,) int64, that encodes its level, row, column and kind.

        Unlike the anchor's position among the A, it does not depend on the padding of the maps, so that the samples of
        an image are independent of its batch.
        """
        names = []
        for level, features in enumerate(maps):
            kind = torch.arange(self.per_position, device=features.device)
            row = torch.arange(features.shape[-2], device=features.device)[:, None, None] << 16
            column = torch.arange(features.shape[-1], device=features.device)[None, :, None]
            names.append((((row + column) * self.per_position + kind) * len(self.strides) + level).flatten())
        return torch.cat(names)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Anchors (A, 4) of all levels, one after the other, for maps (N, C, H, W)."""
        return torch.cat(
            [
                grid_anchors(getattr(self, f"cell{level}"), features.shape[-2], features.shape[-1], stride, self.offset)
                for level, (features, stride) in enumerate(zip(maps, self.strides, strict=True))
            ]
        )
