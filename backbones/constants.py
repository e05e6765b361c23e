"""Constant numbers → tensors, cached for each device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values as a tensor (len(values),), which must not be modified. It is cached: a new copy to a GPU would make
    every step wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
