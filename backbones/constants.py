"""Numbers of the program as tensors, made once for each device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values as a tensor (len(values),), which nobody must write to. Kept: copying them to a GPU anew would have
    every step wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
