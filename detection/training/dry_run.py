"""A stage → the time, memory and disk space that its training needs, from a few measured steps. Writes nothing into the
run's folder."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from detection.training.distributed import on_main, world_size
from detection.training.logging import format_duration
from detection.training.memory import memory_in_use
from detection.training.pace import measure_pace
from detection.training.precision_trial import decided
from detection.training.recipe import batch_in_words, effective_learning_rate
from detection.training.stage import Stage

logger = logging.getLogger(__name__)


def dry_run(stage: Stage, *, written_before: Sequence[Path] = (), bytes_before: int = 0) -> str:
    """The plan of a training as text.

    Args:
        written_before: files that the run writes before this stage's own.
        bytes_before: their size; they are joined from parts, which takes twice that space temporarily.
    """
    stage, precision = decided(stage)
    on_main(lambda: logger.info("measuring some steps of %d images …", stage.training.global_batch))
    pace = measure_pace(stage)
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
        "a step": f"{pace.step:.3f} s, the median of {pace.measured}; {training.global_batch / pace.step:.2f} images/s",
        "the first one": f"after {pace.start:.3f} s: workers are started, and kernels compiled where that is wanted",
        "time": format_duration(pace.step * training.steps),
        "peak memory": f"{_peak_memory(stage.device):.0f} MiB",
        "disk": f"{_size(disk)} needed, {_size(free)} free" + (": TOO LITTLE" if disk > free else ""),
        "written": "\n".join(f"{'':18}{path}" for path in written).lstrip(),
    }
    return "\n".join(f"{key:<18}{value}" for key, value in rows.items())


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
