"""How far a long work has come → one line on a terminal, a bar in a notebook, two lines in a log.

The bars are tqdm's, which are quiet where stderr is no terminal; there, a line at the beginning and one at the end tell
of work done image by image. Of several processes only the first speaks (RANK, as torchrun sets it).
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from .units import format_duration

T = TypeVar("T")


def is_first_rank() -> bool:
    """Whether this is the only process, or the first of several (torchrun's RANK and WORLD_SIZE)."""
    return os.environ.get("WORLD_SIZE", "") in ("", "1") or os.environ.get("RANK", "") in ("", "0")


def with_progress(
    items: Iterable[T], total: int, label: str, *, unit: str = "images", size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yields `items` and shows on stderr how many of `total` are done.

    Args:
        total: how many there are, in units.
        label: what the line begins with: "detecting on val2017".
        unit: what is counted.
        size: for how many units an item counts: a batch, for its images.
    """
    if not is_first_rank():
        yield from items
        return
    began = time.monotonic()
    with _bar_class()(total=total, desc=label, unit=f" {unit}") as bar:
        is_log = bar.disable
        if is_log:
            _print(f"{label}: {total} {unit}")
        for item in items:
            yield item
            bar.update(size(item))
    if is_log:
        _print(f"{label}: {total} {unit} in {format_duration(time.monotonic() - began)}")


class ByteProgress:
    """How many bytes of a file are there, on stderr. `enabled=False` makes every method do nothing."""

    def __init__(self, name: str, *, enabled: bool = True) -> None:
        self.name = name
        self._enabled = enabled
        self._bar: Any = None

    def begin(self, done: int, total: int | None) -> None:
        """From now on bytes come in; `done` of `total` (None: unknown) are there."""
        self.end()
        if self._enabled:
            self._bar = _bar_class()(total=total, initial=done, desc=self.name, unit="B", unit_scale=True)

    def advance_to(self, done: int) -> None:
        """`done` bytes are there."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def end(self) -> None:
        """No more bytes come in, for now or at all."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        """Shows a line of its own, after the file's name."""
        if self._enabled:
            self.end()
            _print(f"{self.name}: {text}")


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that was closed must not end the work
        print(text, file=sys.stderr, flush=True)


def _is_without_size() -> bool:
    """Whether stderr is a terminal of no columns and lines, as in some containers: tqdm would show nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):  # no terminal
        return False


@functools.cache
def _bar_class() -> Any:
    """tqdm's bar for where this runs, with a lock of its own and without a thread that redraws it.

    tqdm's usual lock is one for several processes, which a loader's forked workers would inherit in any state.
    """
    from tqdm.auto import tqdm  # on first use: it takes a tenth of a second

    class Bar(tqdm):  # type: ignore[misc, valid-type, unused-ignore]
        monitor_interval = 0

        def __init__(self, **options: Any) -> None:
            width = {"ncols": 79, "nrows": 24} if _is_without_size() else {"dynamic_ncols": True}
            super().__init__(disable=None, miniters=1, mininterval=0.2, **width, **options)

    Bar.set_lock(threading.RLock())
    return Bar
