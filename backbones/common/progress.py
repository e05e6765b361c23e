"""Shows the progress of a long task: one line on a terminal, a bar in a notebook, two lines in a log.

The bars are tqdm's, which shows none where stderr is not a terminal; there, `with_progress` prints a line at the
beginning and one at the end. Of several processes, only the first prints (RANK, as torchrun sets it).
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
    items: Iterable[T], total: int | None, label: str, *, unit: str = "images", size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """Yields `items` and shows on stderr how many of `total` are done.

    Args:
        total: the number of units; None: unknown.
        label: the beginning of the line: "detecting on val2017".
        unit: the name of a unit.
        size: item → its number of units: for a batch, its images.
    """
    if not is_first_rank():
        yield from items
        return
    began = time.monotonic()
    with _bar_class()(total=total, desc=label, unit=f" {unit}") as bar:
        is_log = bar.disable
        done = 0
        if is_log:
            _print(label if total is None else f"{label}: {total} {unit}")
        for item in items:
            yield item
            bar.update(size(item))
            done += size(item)
    if is_log:
        _print(f"{label}: {done if total is None else total} {unit} in {format_duration(time.monotonic() - began)}")


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, where a line cannot be overwritten and bars are widgets."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


class StepProgress:
    """A bar of steps that are done, with a text behind it, for a notebook."""

    def __init__(self) -> None:
        self._bar: Any = None

    def show(self, name: str, step: int, steps: int, text: str) -> None:
        """Shows that `step` of `steps` are done."""
        if self._bar is None:
            self._bar = _bar_class()(total=steps, initial=step, desc=name, unit=" steps")
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Leaves the bar as it is; the next step begins a new one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class ByteProgress:
    """Shows on stderr how many bytes of a file are there. With `enabled=False` no method does anything."""

    def __init__(self, name: str, *, enabled: bool = True) -> None:
        self.name = name
        self._enabled = enabled
        self._bar: Any = None

    def begin(self, done: int, total: int | None) -> None:
        """Starts the bar: `done` of `total` bytes (None: unknown) are there."""
        self.end()
        if self._enabled:
            self._bar = _bar_class()(total=total, initial=done, desc=self.name, unit="B", unit_scale=True)

    def advance_to(self, done: int) -> None:
        """Updates the bar: `done` bytes are there."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def end(self) -> None:
        """Ends the bar; `begin` may be called again."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, text: str) -> None:
        """Prints a separate line: the file's name and `text`."""
        if self._enabled:
            self.end()
            _print(f"{self.name}: {text}")


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed terminal must not end the task
        print(text, file=sys.stderr, flush=True)


def _is_without_size() -> bool:
    """Whether stderr is a terminal with no columns or lines, as in some containers: tqdm would show nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns == 0
    except (OSError, ValueError):  # not a terminal
        return False


@functools.cache
def _bar_class() -> Any:
    """tqdm's bar class for a terminal or a notebook, with a lock of its own and without a monitoring thread.

    tqdm's default lock is shared between processes; a loader's forked workers would inherit it, possibly locked.
    """
    from tqdm.auto import tqdm  # imported on first use: it takes a tenth of a second

    class Bar(tqdm):  # type: ignore[misc, valid-type, unused-ignore]
        monitor_interval = 0

        def __init__(self, **options: Any) -> None:
            width = {"ncols": 79, "nrows": 24} if _is_without_size() else {"dynamic_ncols": True}
            super().__init__(disable=None, miniters=1, mininterval=0.2, **width, **options)

    Bar.set_lock(threading.RLock())
    return Bar
