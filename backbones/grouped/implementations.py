"""The implementations of a grouped 3×3 convolution and its two gradients; their results are equal to rounding.

    Library             torch.nn.functional.conv2d: cuDNN on a GPU. The one that always works
    BlockDiagonal(m)    a convolution of fewer and wider groups, m channels each, whose weight is zero between channels
                        of different groups: more products, but of a size that matrix units compute fast
    Kernels(t)          Triton's, in tiles of t channels (kernels.py)

Shapes: x (N, C, H, W), weight (C, C / groups, 3, 3), y and its gradient (N, C, H', W').
"""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .shapes import Geometry, empty_in_order_of, memory_order

_MERGED_WIDTHS = (16, 32, 64)
_TILES = (16, 32, 64, 128)
_WIDEST_TILE = {torch.float32: 64, torch.float16: 128, torch.bfloat16: 128}  # limited by the GPU's shared memory


class Implementation(Protocol):
    """One way to compute the convolution and its two gradients."""

    name: str

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """y."""

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        """The gradient of x, which has `input_size`, from that of y."""

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        """The gradient of the weight, whose own values are not read, from that of y."""


class Library:
    """PyTorch's own operator."""

    name = "library"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        # The values of this tensor are not read, but the result has its memory order. torch.nn.grad passes a
        # placeholder in the default order, so that a gradient with channels last would be reordered twice.
        x = empty_in_order_of(input_size, gradient)
        return _gradients(gradient, x, weight, geometry, [True, False, False])[0]

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return _gradients(gradient, x, weight, geometry, [False, True, False])[1]


class BlockDiagonal:
    """The library's operator over groups of `width` channels, a multiple of the convolution's own group width."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.name = f"groups of {width}"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return F.conv2d(x, self._widen(weight), bias, *self._merge(weight, geometry))

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        return LIBRARY.input_gradient(gradient, self._widen(weight), input_size, self._merge(weight, geometry))

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        channels, own = weight.shape[:2]
        wide = empty_in_order_of((channels, self.width, 3, 3), weight)
        wide = LIBRARY.weight_gradient(gradient, x, wide, self._merge(weight, geometry))
        blocks = wide.reshape(channels // self.width, self.width // own, own, self.width // own, own, 3, 3)
        return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(weight.shape)

    def _merge(self, weight: Tensor, geometry: Geometry) -> Geometry:
        """The geometry with groups of `width` channels."""
        return geometry._replace(groups=weight.shape[0] // self.width)

    def _widen(self, weight: Tensor) -> Tensor:
        """(C, C / groups, 3, 3) → (C, width, 3, 3), zero between channels of different groups."""
        channels, own = weight.shape[:2]
        together = self.width // own
        wide = weight.new_zeros(channels // self.width, together, own, together, own, 3, 3)
        wide.diagonal(dim1=1, dim2=3).copy_(weight.view(-1, together, own, own, 3, 3).movedim(1, -1))
        return wide.view(channels, self.width, 3, 3).contiguous(memory_format=memory_order(weight))


class Kernels:
    """Triton's kernels, in tiles of `tile` channels, which contain whole groups."""

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.name = f"Triton, tiles of {tile}"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        from . import kernels

        return kernels.forward(x, weight, bias, geometry, self.tile)

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        from . import kernels

        return kernels.input_gradient(gradient, weight, input_size, geometry, self.tile)

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        from . import kernels

        return kernels.weight_gradient(gradient, x, weight, geometry, self.tile)


LIBRARY: Implementation = Library()


def block_diagonal_candidates(channels: int, groups: int) -> list[Implementation]:
    """The block-diagonal implementations of a convolution."""
    own = channels // groups
    return [BlockDiagonal(width) for width in _MERGED_WIDTHS if width > own and width % own == channels % width == 0]


def triton_candidates(channels: int, groups: int, dtype: torch.dtype) -> list[Implementation]:
    """Triton's implementations of a convolution; none without Triton, in double precision, or for the widest groups."""
    if dtype not in _WIDEST_TILE or importlib.util.find_spec("triton") is None:
        return []
    own = channels // groups
    return [Kernels(tile) for tile in _TILES if own <= tile < 8 * own and tile <= _WIDEST_TILE[dtype]]


def _gradients(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: list[bool]) -> list[Tensor]:
    """The gradients of x, weight and bias; None for those that are not wanted."""
    stride, padding, dilation, groups = geometry
    pairs = ([stride] * 2, [padding] * 2, [dilation] * 2)
    found: list[Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, *pairs, False, [0, 0], groups, wanted
    )
    return found
