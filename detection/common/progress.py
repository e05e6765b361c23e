"""A loop that says how far it is and how long it will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

from detection.training.distributed import is_main
from detection.training.logging import format_duration

T = TypeVar("T")

_TERMINAL_SECONDS, _FILE_SECONDS = 0.5, 10.0


def with_progress(
    items: Iterable[T],
    total: int,
    label: str,
    stream: TextIO | None = None,
    *,
    size: Callable[[T], int] = lambda _: 1,
) -> Iterator[T]:
    """Yields `items`; every so often a line on stderr tells how many of `total` are done and the time left.

    `size` tells for how many an item counts: a batch, for its images.
    On a terminal one line is written over; elsewhere a new line comes every ten seconds. Only rank 0 speaks.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        finished = done == total
        if not is_main() or not (finished or now - last >= (_TERMINAL_SECONDS if terminal else _FILE_SECONDS)):
            continue
        last = now
        left = (now - start) / done * max(total - done, 0)
        text = f"{label} {done}/{total}  {done / max(now - start, 1e-9):.1f}/s"
        text += f"  took {format_duration(now - start)}" if finished else f"  left {format_duration(left)}"
        print(
            f"\r{text:<78}" if terminal else text, end="\n" if finished or not terminal else "", file=stream, flush=True
        )
