"""Padded uint8 images → normalised float32 images, as a network's weights expect them.

`prepare` normalises, `mirrored` flips horizontally.

This runs on the device, so that a batch is transferred with one byte a value. Shapes: N images, H × W padded size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backbones import InputFormat


def prepare(images: Tensor, sizes: Tensor, input_format: InputFormat) -> Tensor:
    """Normalised float32 images (N, 3, H, W), zero in the padding.

    Args:
        images: (N, 3, H, W) uint8 RGB; each image lies in the top left corner.
        sizes: (N, 2) height and width of the images. The padding is set to zero after the normalisation, so that it is
            the mean colour for every input format, like the zero padding of a convolution.
    """
    normalized = input_format.normalize(images)
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) < sizes[:, :1]
    columns = torch.arange(width, device=images.device) < sizes[:, 1:]
    in_memory = normalized.permute(0, 2, 3, 1)
    if not in_memory.is_contiguous():
        return normalized.mul_((rows[:, :, None] & columns[:, None, :])[:, None])
    in_memory.flatten(2).mul_(columns.repeat_interleave(in_memory.shape[3], dim=1)[:, None]).mul_(rows[:, :, None])
    return normalized


def mirrored(images: Tensor, sizes: Tensor) -> Tensor:
    """Padded images (N, 3, H, W), each flipped horizontally within its own size (N, 2), (height, width); the padding
    stays at the right."""
    column = torch.arange(images.shape[3], device=images.device)
    width = sizes[:, 1:]
    source = torch.where(column < width, width - 1 - column, column)
    return images.gather(3, source[:, None, None].expand_as(images)).contiguous(memory_format=torch.channels_last)
