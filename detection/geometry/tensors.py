"""Batched picking of rows, and maps' memory order."""

from __future__ import annotations

import torch
from torch import Tensor


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, B, c) at positions (N, S) of each image: (N, S, c)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def contiguous(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) in torch's own memory order, with their gradient.

    From channels-last memory, image by image, each as a matrix: on a CPU, torch transposes those in blocks, one map in
    a quarter of the time that it takes for reordering four dimensions, several in half of it.
    """
    if maps.is_contiguous() or maps.device.type != "cpu" or len(maps) == 0:
        return maps.contiguous()
    matrices = [one.permute(1, 2, 0).flatten(0, 1).T.contiguous() for one in maps]  # (C, H·W) each
    together = matrices[0].unsqueeze(0) if len(matrices) == 1 else torch.stack(matrices)
    return together.unflatten(2, maps.shape[2:])


def empty_channels_last(shape: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor]:
    """An empty tensor of a shape (N, C, H, W), and the same memory seen as (N, H, W, C), contiguous.

    For an autograd function to fill through the second and return the first, which is no view of it: autograd would
    copy a view's base where something is added in place, or refuse to.
    """
    tensor = torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    return tensor, tensor.permute(0, 2, 3, 1)
