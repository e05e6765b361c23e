"""A stage → the time, memory and disk space that its training needs, from a few measured steps. Writes nothing into the
run's folder."""

from __future__ import annotations

import io
import itertools
import logging
import re
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from detection.training.determinism import determinism
from detection.training.distributed import broadcast_object, on_main, world_size
from detection.training.logging import TrainingLog, format_duration
from detection.training.memory import memory_in_use
from detection.training.precision_trial import decided
from detection.training.recipe import batch_in_words, effective_learning_rate, schedule_for
from detection.training.run import train_stage
from detection.training.stage import Stage

logger = logging.getLogger(__name__)

STEPS = 3  # measured, after one to warm up
_STEPS_OF_MEDIAN = 7  # likewise, the first time
# The second time. On a CPU the first steps with each size of images take up to three times as long as later ones.
_SECONDS_OF_MEDIAN, _MOST_OF_MEDIAN = 8.0, 60


class Pace(NamedTuple):
    """Seconds of a step, and from the start to the end of the first step, with start of workers and compilation."""

    step: float
    start: float


def dry_run(stage: Stage, *, written_before: Sequence[Path] = (), bytes_before: int = 0) -> str:
    """The plan of a training as text.

    Args:
        written_before: files that the run writes before this stage's own.
        bytes_before: their size; they are joined from parts, which takes twice that space temporarily.
    """
    stage, precision = decided(stage)
    pace = _pace(stage)
    training, network, world = stage.training, stage.network, world_size()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    weights = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    # momentum, or AdamW's two averages; and the average of the weights
    checkpoint = weights * (1 if training.ema is None else 2) + 4 * learning * (
        2 if training.optimizer == "adamw" else 1
    )
    # A checkpoint is deleted only after the next one is written; the best one is kept beside the latest.
    kept = training.keep_checkpoints + 1 + (stage.best_figure is not None)
    disk = bytes_before + max(checkpoint * kept + 3 * weights, bytes_before)
    free = shutil.disk_usage(_existing(stage.root)).free
    written = [*written_before, *stage.files, *_files_of_training(stage)]
    rows = {
        "network": f"{stage.name}: {parameters / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them learn",
        "device": f"{world} × {stage.device}",
        "images": str(stage.images),
        "batch": batch_in_words(training, world),
        "learning rate": f"{effective_learning_rate(training):g} (stated: {training.learning_rate:g} for "
        f"{training.learning_rate_batch or 'any number of'} images a step)",
        "steps": f"{training.steps}, {training.steps * training.global_batch / stage.images:.2f} epochs",
        "evaluations": f"every {training.evaluate_every} steps and after the last" if stage.evaluate else "none",
        "precision": str(precision),
        "a step": f"{pace.step:.3f} s, measured over {STEPS}; {training.global_batch / pace.step:.2f} images/s",
        "the first one": f"after {pace.start:.3f} s: workers are started, and kernels compiled where that is wanted",
        "time": format_duration(pace.step * training.steps),
        "peak memory": f"{_peak_memory(stage.device):.0f} MiB",
        "disk": f"{_size(disk)} needed, {_size(free)} free" + (": TOO LITTLE" if disk > free else ""),
        "written": "\n".join(f"{'':18}{path}" for path in written).lstrip(),
    }
    return "\n".join(f"{key:<18}{value}" for key, value in rows.items())


def _pace(stage: Stage) -> Pace:
    """The duration of a step on this machine, from a few steps at a learning rate that hardly changes the network."""
    training = stage.training
    on_main(lambda: logger.info("measuring a few steps of %d images …", training.global_batch))

    def run(steps: int) -> float:
        began = time.monotonic()
        train_stage(stage, steps=steps, schedule=_warm(schedule_for(training)), log=TrainingLog(stream=io.StringIO()))
        return time.monotonic() - began

    with determinism(stage.runtime):
        warm_up = run(1)
        # Starting the workers and warming up is in both times, and cancels out in the difference.
        return Pace(max((run(1 + STEPS) - min(warm_up, run(1))) / STEPS, 1e-6), warm_up)


class _StepTimes(TrainingLog):
    """Keeps the time of every step, and prints nothing."""

    def __init__(self) -> None:
        super().__init__(stream=io.StringIO())
        self.ends: list[float] = []

    def train(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """Notes the end of a step."""
        self.ends.append(time.monotonic())


def median_step(stage: Stage) -> float:
    """Seconds of a step: the median of several after the first, which a pause of a busy machine does not change. Short
    steps are measured a second time, and the later half of them counts. On a GPU every step waits for its result, which
    makes it a little longer."""
    stage, _ = decided(stage)
    first = statistics.median(_step_times(stage, _STEPS_OF_MEDIAN))
    more = broadcast_object(min(int(_SECONDS_OF_MEDIAN / max(first, 1e-6)), _MOST_OF_MEDIAN))
    if more <= _STEPS_OF_MEDIAN:
        return first
    return statistics.median(_step_times(stage, more)[more // 2 :])


def _step_times(stage: Stage, steps: int) -> list[float]:
    """The seconds of each of so many steps, after one to warm up."""
    log = _StepTimes()
    with determinism(stage.runtime):
        train_stage(stage, steps=1 + steps, schedule=_warm(schedule_for(stage.training)), log=log, log_every=1)
    return [max(end - begin, 1e-6) for begin, end in itertools.pairwise(log.ends)]


def _warm(schedule: Callable[[int], float]) -> Callable[[int], float]:
    """The schedule times 0.001, so that an untrained network does not diverge while it is measured."""
    return lambda step: schedule(step) * 1e-3


def _files_of_training(stage: Stage) -> list[Path]:
    """The files that `run_training` writes into the folder of the log and the checkpoints."""
    optional = {
        "best.pt": stage.best_figure is not None,
        "tensorboard": stage.runtime.tensorboard,
        "loggers.json": bool(stage.runtime.loggers),
    }
    names = ["checkpoint_*.pt", "log.jsonl", "run.lock", *(name for name, is_written in optional.items() if is_written)]
    return [stage.folder / name for name in names]


def _peak_memory(device: torch.device) -> float:
    """Peak memory in MiB: of the tensors on a GPU, of this process on a CPU."""
    try:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        peak = None
    return memory_in_use(device) if device.type == "cuda" or peak is None else int(peak[1]) / 1024


def _size(count: float) -> str:
    """3e6 bytes → "2.9 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _existing(folder: Path) -> Path:
    """The folder itself or its nearest parent that exists."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
