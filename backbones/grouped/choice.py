"""Chooses the implementation of a grouped convolution: the fastest at its shape, measured when it first occurs.

A candidate that does not compile or run, or whose result differs from the library's, is left out; if none remains, the
library is used. Shapes are grouped by their number of positions, rounded up to a power of two, so that images of many
sizes need only a few measurements. Measurements are not kept after the process ends.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator

import torch
from torch import Tensor

from .implementations import LIBRARY, Implementation

logger = logging.getLogger(__name__)

_RUNS = 7
_HEAD_START = 5_000_000  # cycles of a GPU: some milliseconds
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}  # relative to the largest value; float32 may be TF32
_LOW_PRECISION = 5e-2

_chosen: dict[Hashable, Implementation] = {}
_library_only = False
_one_at_a_time = threading.Lock()


def choose_fastest(
    key: Hashable, candidates: Callable[[], Iterable[Implementation]], compute: Callable[[Implementation], Tensor]
) -> Implementation:
    """The implementation with which `compute` is fastest, measured at the first call with a key.

    Args:
        key: identifies the case; the choice is cached under it.
        candidates: returns the implementations to choose from besides the library.
        compute: computes the result with an implementation; every candidate's result must equal the library's.
    """
    if _library_only:
        return LIBRARY
    if (known := _chosen.get(key)) is not None:
        return known
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return LIBRARY  # a CUDA graph is being captured: synchronisation is forbidden
    with _one_at_a_time:
        if key not in _chosen and (best := _measure(key, candidates(), compute)) is not None:
            _chosen[key] = best
    return _chosen.get(key, LIBRARY)


@contextlib.contextmanager
def library_only() -> Iterator[None]:
    """Within the block the library computes everything, on all threads."""
    global _library_only
    _library_only = True
    try:
        yield
    finally:
        _library_only = False


def _measure(
    key: Hashable, candidates: Iterable[Implementation], compute: Callable[[Implementation], Tensor]
) -> Implementation | None:
    """The fastest implementation; None if the library's result is not finite, so that no comparison is possible."""
    expected = compute(LIBRARY)
    largest = expected.abs().max()
    if not largest.isfinite():
        return None
    best, shortest = LIBRARY, _duration(lambda: compute(LIBRARY), expected.device)
    for candidate in candidates:
        try:
            difference = (compute(candidate) - expected).abs().max()
            if not difference <= _TOLERANCE.get(expected.dtype, _LOW_PRECISION) * largest:
                logger.warning("%s: %s differs from the library by %.1e, left out", key, candidate.name, difference)
                continue
            duration = _duration(functools.partial(compute, candidate), expected.device)
        except Exception as error:  # compilers and drivers may raise anything; the library always works
            logger.debug("%s: %s does not run here: %s", key, candidate.name, error)
            continue
        logger.debug("%s: %s takes %.3f ms", key, candidate.name, 1e3 * duration)
        if duration < shortest:
            best, shortest = candidate, duration
    return best


def _duration(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that one run takes, the mean of several."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(_RUNS):
            work()
        return (time.perf_counter() - began) / _RUNS
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START)  # the GPU starts after all runs are queued, so only its time counts
    start.record()
    for _ in range(_RUNS):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / _RUNS
