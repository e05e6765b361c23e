"""Constant numbers → tensors, cached for each device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The values as a tensor (len(values),), which must not be modified. It is cached: a new copy to a GPU would make
    every step wait."""
    if torch.compiler.is_exporting():  # a tensor without values, which stands for one: not to be cached
        return torch.tensor(values, dtype=dtype, device=device)
    return _cached(values, device, dtype)


@functools.lru_cache(maxsize=256)
def _cached(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
