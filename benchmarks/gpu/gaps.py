"""(d) A profile of each step: what the device computes, and how long it waits for the host.

The device is busy during the union of its kernels and copies; a gap is the time between two of them. The profiler
slows the host down, so the steps are also timed without it: where the busy time is far below that time, too, the host
limits the speed.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks.common import OURS, PEER
from benchmarks.detector import in_precision, steps
from benchmarks.gpu.results import Work
from benchmarks.gpu.scenes import DTYPES, configuration, scene_of
from benchmarks.gpu.speed import timed

_STEPS = 3
_SHOWN = 12  # kernels by time, and gaps by length
_LONG_GAP = 20.0  # microseconds: longer than the launch of a kernel takes
# What makes the host wait for the device, as PyTorch and CUDA name it.
_WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def profile(work: Work, *, preset: str, precision: str) -> dict[str, Any]:
    """For both sides' training steps and inference: seconds, the busy share, gaps, launches, waits, the longest
    kernels."""
    dtype = DTYPES[precision]
    scene = scene_of(work, preset, configuration(work, preset))
    found = []
    for what, functions in in_precision(steps(scene), dtype, work.device).items():
        chosen = {who: functions[who] for who in (OURS, PEER)}
        timings = timed(chosen, work)
        for who, function in chosen.items():
            row = profiled(function, work)
            busy = None if row["busy_seconds"] is None else row["busy_seconds"] / timings[who].median
            found.append({"what": what, "who": who, "seconds": timings[who].median, "busy_share": busy, **row})
    return {"rows": found, "steps": _STEPS}


def profiled(function: Callable[[], object], work: Work) -> dict[str, Any]:
    """What a call does, the mean of several: device seconds, gaps, launches, waits, kernels.

    On a CPU there is no device that could wait: the operators stand for kernels, and there are no gaps.
    """
    on_gpu = work.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    work.synchronize()
    begin = time.perf_counter()
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        for _ in range(_STEPS):
            function()
        work.synchronize()
    wall = (time.perf_counter() - begin) / _STEPS
    events = list(profiler.events())
    host = [one for one in events if one.device_type == DeviceType.CPU]
    device = [one for one in events if one.device_type == DeviceType.CUDA] if on_gpu else []
    spans = sorted((one.time_range.start, one.time_range.end, one.name) for one in device)
    busy, gaps = busy_and_gaps(spans)
    times: dict[str, float] = defaultdict(float)
    for one in device or host:
        times[one.name] += (one.time_range.end - one.time_range.start if on_gpu else one.self_cpu_time_total) / 1e6
    longest = sorted(times.items(), key=lambda item: -item[1])[:_SHOWN]
    waits = Counter(one.name for one in host if one.name in _WAITS)
    long_gaps = sorted((gap for gap in gaps if gap[0] > _LONG_GAP), reverse=True)
    return {
        "profiled_seconds": wall,
        "busy_seconds": busy / 1e6 / _STEPS if on_gpu else None,
        "launches": len(device) / _STEPS if on_gpu else None,
        "gap_seconds": sum(length for length, _, _ in gaps) / 1e6 / _STEPS if on_gpu else None,
        "long_gaps": len(long_gaps) / _STEPS if on_gpu else None,
        "longest_gaps": [
            {"microseconds": round(length, 1), "after": before[:80], "before": following[:80]}
            for length, before, following in long_gaps[:_SHOWN]
        ],
        "waits": {name: count / _STEPS for name, count in sorted(waits.items())},
        "kernels": [{"name": name[:120], "seconds": seconds / _STEPS} for name, seconds in longest],
    }


def busy_and_gaps(
    spans: Sequence[tuple[float, float, str]],
) -> tuple[float, list[tuple[float, str, str]]]:
    """The length of the union of spans (start, end, name), sorted by start, and the gaps between them: length, and the
    names before and after.

    >>> busy_and_gaps([(0, 10, "a"), (5, 8, "b"), (12, 13, "c")])
    (11, [(2, 'a', 'c')])
    """
    busy, gaps = 0.0, []
    end, last = None, ""
    for start, stop, name in spans:
        if end is None:
            busy, end, last = stop - start, stop, name
            continue
        if start > end:
            gaps.append((start - end, last, name))
        busy += max(0, stop - max(start, end))
        if stop > end:
            end, last = stop, name
    return busy, gaps
