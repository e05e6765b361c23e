"""How far a download has come → a line on stderr: rewritten on a terminal, a new one every tenth of the way in logs."""

from __future__ import annotations

import sys
import time


def in_bytes(count: float) -> str:
    """A number of bytes for people: `in_bytes(176_000_000)` is "176.0 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


class Progress:
    """Reports one file's download. `enabled=False` makes every method do nothing."""

    def __init__(self, name: str, *, enabled: bool) -> None:
        self.name = name
        self.enabled = enabled
        self.terminal = enabled and sys.stderr.isatty()
        self.total: int | None = None
        self.start_offset = 0
        self.start_time = time.monotonic()
        self.reported_time = 0.0
        self.reported_tenth = 0

    def begin(self, offset: int, total: int | None) -> None:
        """A connection stands and sends from byte `offset` on."""
        self.start_offset, self.total, self.start_time = offset, total, time.monotonic()
        self.reported_tenth = 10 * offset // total if total else 0
        self.reported_time = self.start_time
        whole = in_bytes(total) if total is not None else "unknown size"
        self.say(f"fetching {whole}" + (f", going on from {in_bytes(offset)}" if offset else ""))

    def update(self, offset: int) -> None:
        """`offset` bytes of the file are there."""
        if not self.enabled:
            return
        now = time.monotonic()
        tenth = 10 * offset // self.total if self.total else 0
        if self.terminal:
            due = now - self.reported_time > 0.2
        else:  # a log: every tenth of the way, at most one line a second; without a total every half minute
            due = now - self.reported_time > (1.0 if self.total and tenth > self.reported_tenth else 30.0)
        if not due:
            return
        self.reported_time, self.reported_tenth = now, tenth
        rate = (offset - self.start_offset) / max(now - self.start_time, 1e-3)
        text = f"{self.name}: {in_bytes(offset)}"
        if self.total:
            text += f" of {in_bytes(self.total)} ({100 * offset // self.total} %)"
        text += f", {in_bytes(rate)}/s"
        if self.total and rate:
            text += f", {(self.total - offset) / rate:.0f} s left"
        if self.terminal:
            print(f"\r{text:<79}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self, offset: int) -> None:
        """Every byte is there."""
        self.say(f"{in_bytes(offset)} fetched")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self.enabled:
            line = f"{self.name}: {text}"
            print(f"\r{line:<79}" if self.terminal else line, file=sys.stderr, flush=True)
