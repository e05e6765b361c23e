"""The ways to compute a grouped 3×3 convolution and its two gradients; all give the same numbers, to rounding.

    Library             torch.nn.functional.conv2d: cuDNN on a GPU. The one that always works
    BlockDiagonal(m)    a convolution of fewer and wider groups, m channels each, whose weight is zero between channels
                        of different groups: more products, but of a size that matrix units are made for
    Kernels(t)          Triton's, in tiles of t channels (kernels.py)

Shapes: x (N, C, H, W), weight (C, C / groups, 3, 3), y and its gradient (N, C, H', W').
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

_MERGED_WIDTHS = (16, 32, 64)
_TILES = (16, 32, 64, 128)


class Geometry(NamedTuple):
    """The numbers of a 3×3 convolution besides its shapes; the same along both axes."""

    stride: int
    padding: int
    dilation: int
    groups: int


class Implementation(Protocol):
    """One way to compute the three."""

    name: str

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """y."""

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        """The gradient of x, which has `input_size`, from that of y."""

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        """The gradient of the weight, of which only the shape is looked at, from that of y."""


class Library:
    """PyTorch's own operator."""

    name = "library"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        return conv2d_input(input_size, weight, gradient, *geometry)

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        return conv2d_weight(x, weight.shape, gradient, *geometry)


class BlockDiagonal:
    """The library's operator over groups of `width` channels, a multiple of the convolution's own group width."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.name = f"groups of {width}"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return F.conv2d(x, self._widened(weight), bias, *self._merged(weight, geometry))

    def input_gradient(
        self, gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry
    ) -> Tensor:
        merged = self._merged(weight, geometry)
        return conv2d_input(input_size, self._widened(weight), gradient, *merged)

    def weight_gradient(self, gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        channels, own = weight.shape[:2]
        shape = (channels, self.width, 3, 3)
        wide = conv2d_weight(x, shape, gradient, *self._merged(weight, geometry))
        blocks = wide.view(channels // self.width, self.width // own, own, self.width // own, own, 3, 3)
        return blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).reshape(weight.shape)

    def _merged(self, weight: Tensor, geometry: Geometry) -> Geometry:
        return geometry._replace(groups=weight.shape[0] // self.width)

    def _widened(self, weight: Tensor) -> Tensor:
        """(C, C / groups, 3, 3) → (C, width, 3, 3), zero between channels of different groups."""
        channels, own = weight.shape[:2]
        together = self.width // own
        wide = weight.new_zeros(channels // self.width, together, own, together, own, 3, 3)
        wide.diagonal(dim1=1, dim2=3).copy_(weight.view(-1, together, own, own, 3, 3).movedim(1, -1))
        return _in_order_of(wide.view(channels, self.width, 3, 3), weight)


class Kernels:
    """Triton's kernels, in tiles of `tile` channels, which hold whole groups."""

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


def merged(channels: int, groups: int) -> list[Implementation]:
    """The block-diagonal implementations of a convolution."""
    own = channels // groups
    return [BlockDiagonal(width) for width in _MERGED_WIDTHS if width > own and width % own == channels % width == 0]


def compiled(channels: int, groups: int, dtype: torch.dtype) -> list[Implementation]:
    """Triton's implementations of a convolution; none without Triton, in double precision, or for the widest groups."""
    if dtype not in (torch.float32, torch.float16, torch.bfloat16) or importlib.util.find_spec("triton") is None:
        return []
    own = channels // groups
    return [Kernels(tile) for tile in _TILES if own <= tile < 8 * own]


def _in_order_of(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor in channels-last memory if `like` is."""
    if like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
