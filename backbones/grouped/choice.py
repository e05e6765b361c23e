"""Which implementation computes a grouped convolution: the fastest one at its shape, as measured when it first occurs.

A candidate that does not compile or run, or whose result is not the library's, is left out; without any left, the
library computes. Shapes are told apart by their number of positions to the next power of two, so that images of many
sizes are measured a few times, not each anew. A process forgets what it measured when it ends.
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
_HEAD_START = 5_000_000  # a GPU's cycles: some milliseconds
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}  # of the largest value; float32 may be multiplied as TF32
_LOW_PRECISION = 5e-2

_chosen: dict[Hashable, Implementation] = {}
_library_only = False
_one_at_a_time = threading.Lock()


def fastest(
    key: Hashable, candidates: Callable[[], Iterable[Implementation]], compute: Callable[[Implementation], Tensor]
) -> Implementation:
    """The implementation with which `compute` takes the least time; measured at the first call with a key.

    Args:
        key: what tells one case from another.
        candidates: what there is to choose from besides the library.
        compute: the work; its result with the library is what every candidate's must equal.
    """
    if _library_only:
        return LIBRARY
    if (known := _chosen.get(key)) is not None:
        return known
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return LIBRARY  # a graph is being recorded: nothing may be waited for
    with _one_at_a_time:
        if key not in _chosen and (best := _measured(key, candidates(), compute)) is not None:
            _chosen[key] = best
    return _chosen.get(key, LIBRARY)


@contextlib.contextmanager
def library_only() -> Iterator[None]:
    """Within it the library computes everything, on all threads."""
    global _library_only
    _library_only = True
    try:
        yield
    finally:
        _library_only = False


def forget() -> None:
    """Has every shape measured again."""
    _chosen.clear()


def _measured(
    key: Hashable, candidates: Iterable[Implementation], compute: Callable[[Implementation], Tensor]
) -> Implementation | None:
    """The fastest implementation; None if the numbers at hand allow no comparison."""
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
        except Exception as error:  # whatever a compiler or a driver raises; the library computes then
            logger.debug("%s: %s does not run here: %s", key, candidate.name, error)
            continue
        logger.debug("%s: %s takes %.3f ms", key, candidate.name, 1e3 * duration)
        if duration < shortest:
            best, shortest = candidate, duration
    return best


def _duration(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one of several runs."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(_RUNS):
            work()
        return (time.perf_counter() - began) / _RUNS
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_HEAD_START)  # the GPU begins when all is queued: its time is wanted, not the host's
    start.record()
    for _ in range(_RUNS):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / _RUNS
