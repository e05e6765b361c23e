"""(b) Both training steps and inference beside torchvision's Faster R-CNN: same weights, same batch, same process.

Training steps have as many images as the preset has for a device. Inference has one image (the time until its answer)
and several. A round runs each function often enough to fill a third of a second, between two readings of the clock at
which the device has nothing left to do, as a training does, which waits for the device only now and then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from backbones.grouped.choice import library_only
from benchmarks.common import PEER, Timing, interleaved
from benchmarks.detector import Functions, agreements, in_precision, steps
from benchmarks.gpu.results import Work
from benchmarks.gpu.scenes import DTYPES, configuration, repeated, scene_of, size_of
from benchmarks.roofline import exact_convolutions, operations, peak, peak_memory
from benchmarks.scene import Scene

_WARM_UP = 3  # runs before any is timed: cuDNN chooses, memory is reserved, Triton compiles
_ROUND_SECONDS = 0.3
_MOST_CALLS = 50
_MANY = 8  # images of the second measurement of inference


def beside_torchvision(work: Work, *, backbone: str, preset: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Rows of what was measured, each side's images a second, operations, share of the peak and memory; before it,
    under "alike", how much of what either side finds in fp32 the other finds, too: the page tells where it is not all.
    """
    dtype = DTYPES[precision]
    config = configuration(work, preset, backbone, f"runtime.compile={str(compiled).lower()}")
    scene = scene_of(work, preset, config)
    with exact_convolutions():
        alike = agreements(scene)
    most = peak(work.device, dtype)
    rows = []
    for what, (images, functions) in _works(work, scene, dtype).items():
        functions = in_precision({what: functions}, dtype, work.device)[what]
        timings = timed(functions, work)
        for who, function in functions.items():
            needed = _operations(function)
            memory = peak_memory(function, work.device)
            seconds = timings[who]
            rows.append(
                {
                    "what": what,
                    "who": who,
                    "images": images,
                    "seconds": seconds.to_dict(),
                    "images_per_second": images / seconds.median,
                    "ratio": seconds.ratio_to(timings[PEER]),
                    "operations": needed,
                    "share_of_peak": needed / seconds.median / most,
                    "memory_mib": memory,
                }
            )
    return {"alike": alike, "size": list(size_of(work, preset)), "peak": most, "rows": rows}


def timed(functions: Functions, work: Work) -> dict[str, Timing]:
    """Times functions in turns, a call's seconds; each round of many calls."""
    for _ in range(1 if work.quick else _WARM_UP):
        for function in functions.values():
            function()
    once = interleaved(functions, 1, device=work.device)
    calls = {
        name: 1 if work.quick else min(_MOST_CALLS, max(1, math.ceil(_ROUND_SECONDS / timing.median)))
        for name, timing in once.items()
    }
    rounds = {name: partial(_repeat, function, calls[name]) for name, function in functions.items()}
    timings = interleaved(rounds, 1 if work.quick else 5, device=work.device)
    return {name: Timing(tuple(one / calls[name] for one in own.rounds)) for name, own in timings.items()}


def _repeat(function: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        function()


def _works(work: Work, scene: Scene, dtype: torch.dtype) -> Mapping[str, tuple[int, Functions]]:
    """What is measured → the images of a call, and each side's function."""
    config = scene.config
    rpn, fast = (part.training.images_per_device for part in (config.rpn, config.fast_rcnn))
    many = 2 if work.quick else _MANY

    def of(images: int, number: int) -> Functions:
        batch = repeated(scene.batch, images)
        made = steps(dataclasses.replace(scene, batch=batch), scaled=dtype == torch.float16)
        return list(made.values())[number]

    return {
        "RPN training step": (rpn, of(rpn, 0)),
        "Fast R-CNN training step": (fast, of(fast, 1)),
        "inference, one image": (1, of(1, 2)),
        f"inference, {many} images": (many, of(many, 2)),
    }


def _operations(function: Callable[[], object]) -> int:
    """Those of the library's operators: what is compiled, or Triton's, is not counted."""
    with library_only(), torch.compiler.set_stance("force_eager"):
        return operations(function)
