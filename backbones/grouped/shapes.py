"""Used by all implementations of a grouped 3×3 convolution: its numbers, and tensors for the results.

Shapes: x (N, C, H, W), weight (C, C / groups, 3, 3), y (N, C, H', W').
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Geometry(NamedTuple):
    """The numbers of a 3×3 convolution besides its shapes; the same along both axes."""

    stride: int
    padding: int
    dilation: int
    groups: int


def geometry_of(convolution: nn.Conv2d) -> Geometry:
    """The numbers of a convolution that are the same along both axes."""
    stride, padding, dilation = (
        int(number[0]) for number in (convolution.stride, convolution.padding, convolution.dilation)
    )
    return Geometry(stride, padding, dilation, convolution.groups)


def empty_in_order_of(size: tuple[int, ...], like: Tensor) -> Tensor:
    """A tensor of this size without values, with the type, device and memory order of `like`."""
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_order(like))


def memory_order(tensor: Tensor) -> torch.memory_format:
    """Channels last, or contiguous."""
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
