"""The training of one network, put together and ready to begin: what a run and a dry run both start from.

The RPN, the Fast R-CNN and the classifiers each make one from their configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.common.files import user_path
from detection import config as settings
from detection.training.loop import Outcome
from detection.training.micro_batches import TrainingBatch

Batches = Callable[[int], Iterable[TrainingBatch]]  # first step → this rank's micro-batches from that step on


def _unchanged(content: dict[str, Any]) -> dict[str, Any]:
    return content


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        name: the network's, in the log and in messages.
        network: on the device; its `forward` gives the losses of a batch.
        batches: the recipe → the micro-batches. A dry run asks for those of fewer steps.
        training: the recipe.
        images: size of the training set.
        root: the run's folder.
        folder: of the log and the checkpoints.
        identity: what the training is made of, JSON-able; a checkpoint of another identity is not continued.
        evaluate: step → figures for the log, called every `training.evaluate_every` steps and after the last; None
            where that is never.
        save_config: writes the configuration; called, by one process, only if the run may go on in the folder.
        save: writes what the finished training leaves; called by one process, also where all steps were done before.
        files: all that `save_config` and `save` write.
        upgrade_checkpoint: a checkpoint's content by an earlier version → as today's version would have written it.
    """

    name: str
    network: nn.Module
    batches: Callable[[settings.Training], Batches]
    training: settings.Training
    runtime: settings.Runtime
    device: torch.device
    images: int
    root: Path
    folder: Path
    identity: Mapping[str, Any]
    evaluate: Callable[[int], dict[str, float]] | None
    save_config: Callable[[], None]
    save: Callable[[Outcome], None]
    files: tuple[Path, ...]
    upgrade_checkpoint: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged


def root_of(output: str | None, name: str) -> Path:
    """The folder of a run: what its configuration names as `output`, or `runs/<name>`."""
    return user_path(output) if output is not None else Path("runs") / name
