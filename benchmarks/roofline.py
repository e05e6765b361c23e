"""How much of a device's arithmetic a function uses: its multiply-adds by its time, beside what a large product of
matrices reaches on the same device. Convolutions and matrix products are counted, forward and backward, as they are
called: two operations a multiply-add. The rest (pooling, NMS, normalisation) counts as none."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_SIDE = {"cpu": 2048, "cuda": 8192}
_RUNS = 5


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of a call."""
    # PyTorch's own formula for the gradients takes grouped convolutions for dense ones.
    own = {torch.ops.aten.convolution_backward: _of_gradients}
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        function()
    return counter.get_total_flops()


def _of_gradients(
    gradient: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Any = None, **more: Any
) -> int:
    """Of a convolution's gradients, from shapes: as many as forward for the input's, and for the weight's."""
    wanted = rest[-1]
    return 2 * math.prod(gradient) * math.prod(weight[1:]) * sum(wanted[:2])


@contextlib.contextmanager
def _set(backend: Any, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before


def exact_convolutions() -> contextlib.AbstractContextManager[None]:
    """Within it float32 is multiplied as such, which on a GPU it is not by default: folding batch normalisation before
    or after rounding to TF32 makes other detections."""
    return _set(torch.backends.cudnn.conv, "ieee")


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a square matrix product, the fastest of a few runs; of float32 as convolutions multiply
    it, on a GPU in TF32."""
    with _set(torch.backends.cuda.matmul, torch.backends.cudnn.conv.fp32_precision):
        return _peak(device, dtype)


def _peak(device: torch.device, dtype: torch.dtype) -> float:
    side = _SIDE[device.type]
    first, second = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(_RUNS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        torch.mm(first, second)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * side**3 / fastest


def peak_memory(function: Callable[[], object], device: torch.device) -> float | None:
    """Mebibytes that tensors take at most during a call, beside what there was before it; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
