"""The figures of a run → a progress line on the terminal, a JSONL file, TensorBoard and other loggers.

    <folder>/log.jsonl      one JSON object a line: {"kind": "train" or "evaluation", "step": …, "loss": …, …}, or
                            {"kind": "remark", "step": …, "text": …}
    <folder>/tensorboard/   the same figures, and images of evaluations, if TensorBoard is installed

Only rank 0 writes and prints. Durations come from a monotonic clock; numbers are formatted the same in every locale.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import write_text
from backbones.common.progress import StepProgress, in_notebook
from backbones.common.units import format_duration
from detection.training.distributed import is_main
from detection.training.loggers import SERVICES, Logger, TensorBoard, import_services


class TrainingLog:
    """The log of one run.

    Args:
        folder: where the files are written; None to write none.
        name: the beginning of the progress line ("rpn").
        stream: where the progress is printed: on a terminal one line that is updated, elsewhere a new line each time.
            None: stderr, and in a notebook a bar.
        tensorboard: write TensorBoard files too; if it is not installed, a message is printed.
        services: other loggers, names in `loggers.SERVICES`. One that fails later is left out, with a message.
        headline: the figure of the evaluations whose latest value the progress line shows ("AP").
        seconds_after: estimate of what follows the training in a chain; the progress line shows the time left of both.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        name: str = "train",
        stream: TextIO | None = None,
        tensorboard: bool = True,
        services: Sequence[str] = (),
        headline: str | None = None,
        seconds_after: float | None = None,
    ) -> None:
        self._seconds_after = seconds_after
        self._headline = headline
        self._latest = ""  # "AP 0.4321 at 600  "
        self._folder = None if folder is None or not is_main() else Path(folder)
        self._name = name
        self._stream = stream if stream is not None else sys.stderr
        # Without a stream of the caller's, a notebook shows a bar.
        self._notebook = StepProgress() if stream is None and in_notebook() else None
        self._on_terminal = self._stream.isatty()
        self._line_open = False
        self._wants_tensorboard = tensorboard
        self._services = import_services(services) if self._folder is not None else {}
        self._file: TextIO | None = None
        self._loggers: dict[str, Logger] = {}

    def start(self, step: int, evaluated: int) -> None:
        """Opens the files for a run that continues after `step`, and removes entries of later steps from a session that
        was killed.

        Raises:
            UserError: a file cannot be written.
        """
        if self._folder is None:
            return
        path = self._folder / "log.jsonl"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for entry in _rewind(path, {"train": step, "evaluation": evaluated, "remark": step}):
                if entry["kind"] == "evaluation":
                    self._remember(entry["step"], entry)
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        if self._wants_tensorboard:
            try:
                self._loggers["tensorboard"] = TensorBoard(self._folder, step)
            except ImportError:
                self.message("TensorBoard is not installed: its curves are left out, log.jsonl has the same figures")
        for name, module in self._services.items():
            try:
                self._loggers[name] = SERVICES[name](module, self._folder, self._name)
            except Exception as error:  # a service may raise anything
                raise UserError(f"runtime.loggers: {name} cannot be started: {error!r:.500}") from error

    def train(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """Writes the figures of a training interval and shows the progress line.

        `figures`: the losses by name ("loss" is their sum), and "lr", "images_per_second", "data_wait" (share, 0–1),
        "memory_mib", "time_left" (seconds).
        """
        if not is_main():
            return
        self._write("train", step, figures)
        line = _progress_line(self._name, step, steps, figures, self._latest)
        if self._seconds_after is not None:
            line += f", about {format_duration(figures['time_left'] + self._seconds_after)} with all that follows"
        if self._notebook is not None:
            self._notebook.show(self._name, step, steps, line.partition("  ")[2])
        else:
            self._show(line)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the images of a periodic evaluation, each uint8 (H, W, 3) RGB, by name."""
        for name, image in images.items():
            self._to_loggers(lambda logger, name=name, image=image: logger.image(name, image, step))

    def evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes and shows the figures of a periodic evaluation."""
        if not is_main():
            return
        self._write("evaluation", step, figures)
        self._remember(step, figures)
        self.message(
            f"{self._name} step {step}: "
            + "  ".join(f"{name} {value:.4f}" for name, value in figures.items() if math.isfinite(value))
        )

    def remark(self, step: int, text: str) -> None:
        """Writes and shows one line about the run as it continues from `step`."""
        if not is_main():
            return
        self._write("remark", step, {"text": text})
        self.message(text)

    def message(self, text: str) -> None:
        """Shows one line that stays on the terminal."""
        if not is_main():
            return
        self._end_line()
        self._print(text + "\n")

    def close(self) -> None:
        """Ends the progress line and closes the files."""
        self._end_line()
        if self._notebook is not None:
            self._notebook.close()
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk was already reported by _write
                self._file.close()
            self._file = None
        self._to_loggers(lambda logger: logger.close())
        self._loggers.clear()

    def _write(self, kind: str, step: int, entries: Mapping[str, float | str]) -> None:
        if self._folder is None:
            return
        # JSON has no NaN (an AP where no class was to be found): null stands for it.
        finite = {
            name: value if isinstance(value, str) or math.isfinite(value) else None for name, value in entries.items()
        }
        try:
            if self._file is not None:
                self._file.write(json.dumps({"kind": kind, "step": step, **finite}, allow_nan=False) + "\n")
                self._file.flush()
        except OSError as error:
            raise UserError(
                f"the log in {self._folder} cannot be written: {error.strerror or error}. "
                "Free space and start again with --resume."
            ) from error
        numbers = {name: value for name, value in finite.items() if isinstance(value, (int, float))}
        texts = [value for value in finite.values() if isinstance(value, str)]
        if numbers:
            self._to_loggers(lambda logger: logger.figures(kind, numbers, step))
        for text in texts:
            self._to_loggers(lambda logger, text=text: logger.text(kind, text, step))

    def _to_loggers(self, action: Callable[..., None]) -> None:
        """Calls `action` with each logger. One that fails is left out from then on: the training goes on without it."""
        for name, logger in list(self._loggers.items()):
            try:
                action(logger)
            except Exception as error:  # a service may raise anything, such as errors of the network
                del self._loggers[name]
                self.message(f"{name} failed and is left out from now on: {error!r:.300}; log.jsonl has all figures")

    def _remember(self, step: int, figures: Mapping[str, Any]) -> None:
        value = figures.get(self._headline) if self._headline is not None else None
        if isinstance(value, float) and math.isfinite(value):
            self._latest = f"{self._headline} {value:.4f} at {step}  "

    def _show(self, line: str) -> None:
        if self._on_terminal:
            width = shutil.get_terminal_size().columns
            self._print("\r" + line[: width - 1] + "\x1b[K")
            self._line_open = True
        else:
            self._print(line + "\n")

    def _end_line(self) -> None:
        if self._line_open:
            self._print("\n")
            self._line_open = False

    def _print(self, text: str) -> None:
        # A closed terminal (a lost connection) must not end a run that lasts days.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


class Stopwatch:
    """Times the interval between two log entries: images per second, waiting for data, time left.

    The time left is computed from the last intervals including evaluations and checkpoints (`aside`); the images per
    second and the share of waiting exclude them.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = self._aside = 0.0
        self._paces: deque[tuple[float, int]] = deque(maxlen=20)  # (seconds, steps) of an interval

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of the block as waiting for data."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Counts the time of the block as an evaluation or a checkpoint, not as training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._aside += time.monotonic() - began

    def lap(self, steps: int, global_batch: int, steps_left: int) -> dict[str, float]:
        """Ends the interval, in which `steps` steps were done, and begins the next.

        Returns:
            "images_per_second"; "data_wait", the share (0–1) of the time in which the host waited for the loader (an
            upper bound of the time that a GPU waited, since it may have been computing); "time_left" in seconds.
        """
        now = time.monotonic()
        self._paces.append((now - self._began, steps))
        seconds = max(now - self._began - self._aside, 1e-9)
        figures = {
            "images_per_second": steps * global_batch / seconds,
            "data_wait": self._waited / seconds,
            "time_left": steps_left * sum(s for s, _ in self._paces) / sum(n for _, n in self._paces),
        }
        self._began, self._waited, self._aside = now, 0.0, 0.0
        return figures


_MEASURES = ("lr", "gradient_norm", "images_per_second", "data_wait", "memory_mib", "time_left", "elapsed")


def _progress_line(name: str, step: int, steps: int, figures: Mapping[str, float], evaluated: str = "") -> str:
    losses = "  ".join(f"{term} {value:.4f}" for term, value in figures.items() if term not in _MEASURES)
    return (
        f"{name} {step}/{steps}  {evaluated}{losses}  lr {figures['lr']:.3g}  "
        f"{figures['images_per_second']:.3g} images/s  "
        f"waiting for data {figures['data_wait']:.0%}  {figures['memory_mib']:.0f} MiB  "
        f"{format_duration(figures['time_left'])} left"
    )


def _rewind(path: Path, last_steps: Mapping[str, int]) -> list[dict[str, Any]]:
    """Removes the lines of `path` whose step is above the last step of their kind, and the unfinished line of a killed
    process, if there is one. Returns the entries that remain.

    Raises:
        UserError: it has whole lines, and none of them is of a log.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    kept, entries, is_log = [], [], "\n" not in text
    for line in text.splitlines(keepends=True):
        try:
            entry = json.loads(line)
            is_earlier = entry["step"] <= last_steps[entry["kind"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        is_log = True
        if is_earlier and line.endswith("\n"):
            kept.append(line)
            entries.append(entry)
    if not is_log:
        raise UserError(f"{path} is no log of a training; name another output folder (--output), or move it away")
    if "".join(kept) != text:
        write_text(path, "".join(kept))
    return entries
