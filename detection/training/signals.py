"""SIGINT, SIGTERM, SIGUSR1 → a number that the loop reads between steps, so that a run ends with a checkpoint."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

# Batch systems send SIGUSR1 before their time limit; it does not exist on Windows.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopRequested(BaseException):
    """A stop signal was received within `StopSignals.raising`. Not an Exception, so that `except Exception` does not
    catch it."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class StopSignals:
    """Context in which the first stop signal is stored in `received` (0 until then); the earlier handlers are restored
    at the end.

    A second SIGINT raises KeyboardInterrupt at once, for users who do not want to wait for the step. In processes
    forked within the block, which inherit the handlers, the signals do nothing: a batch system or a terminal signals
    the whole process group, and the current step still needs the processes that load its images. Outside the main
    thread Python cannot set handlers, and `received` stays 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}
        self._raises = False

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Within the block a signal raises StopRequested at once; for work that takes long and has nothing to save."""
        if self.received:
            raise StopRequested(self.received)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._raises:
            self._raises = False
            self.received = number
            raise StopRequested(number)
        if not self.received:
            # os.write, because a handler may interrupt a print and must not enter the same buffer.
            hint = "; Ctrl-C once more stops at once" if number == signal.SIGINT else ""
            os.write(
                2, f"\n{signal.Signals(number).name}: finishing this step, then writing a checkpoint{hint}\n".encode()
            )
        self.received = self.received or number
