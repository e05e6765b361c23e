"""Feature maps in channels-last memory → the same in contiguous memory order, in two forms."""

from __future__ import annotations

import torch
from torch import Tensor


def contiguous(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) in contiguous memory order."""
    return maps.contiguous()


def contiguous_by_transposing(maps: Tensor) -> Tensor:
    """The same as `contiguous`, by transposing each image as a matrix; differentiable.

    On a CPU torch transposes matrices in blocks: this takes a quarter of the time of reordering four dimensions for one
    map, and half of it for several maps.
    """
    if maps.is_contiguous() or len(maps) == 0:
        return maps.contiguous()
    matrices = [one.permute(1, 2, 0).flatten(0, 1).T.contiguous() for one in maps]  # (C, H·W) each
    together = matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
    return together.unflatten(2, maps.shape[2:])


def empty_channels_last(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """An empty tensor of a shape (N, C, H, W), and the same memory seen as (N, H, W, C), contiguous.

    An autograd function fills the second and returns the first, which is not a view: on an in-place addition to a view,
    autograd would copy its base or raise an error.
    """
    tensor = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    return tensor, tensor.permute(0, 2, 3, 1)
