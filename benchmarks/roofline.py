"""How much of a device's arithmetic a function uses: its multiply-adds by its time, beside what a large, dense
convolution reaches on the same device. Convolutions and matrix products are counted, forward and backward, as they are
called: two operations a multiply-add. The rest (pooling, NMS, normalisation) counts as none."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import interleaved

_CHANNELS, _SIDE, _MAPS = 512, 64, {"cpu": 1, "cuda": 64}
_RUNS = 8


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
def exact_convolutions() -> Iterator[None]:
    """Within it float32 is multiplied as such, which on a GPU it is not by default: folding batch normalisation before
    or after rounding to TF32 makes other detections."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cudnn.conv.fp32_precision = before


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a dense 3×3 convolution of many channels, the fastest of a few runs; of float32 as
    convolutions multiply it, on a GPU in TF32. On CPUs it was faster than any product of matrices."""
    x = torch.randn(_MAPS[device.type], _CHANNELS, _SIDE, _SIDE, device=device).to(dtype)
    weight = torch.randn(_CHANNELS, _CHANNELS, 3, 3, device=device).to(dtype)
    if device.type == "cuda":
        x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    convolve = torch.inference_mode()(partial(functional.conv2d, x, weight, padding=1))
    fastest = min(interleaved({"peak": convolve}, _RUNS, device=device)["peak"].rounds)
    return 2 * x.numel() * weight[0].numel() / fastest


def peak_memory(function: Callable[[], object], device: torch.device) -> float | None:
    """Mebibytes that tensors take at most during a call, beside what there was before it; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20
