"""`Stage`: everything that the training of one network needs, for a run as well as a dry run.

The RPN, the Fast R-CNN and the classifiers each build one from their configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.common.files import user_path
from detection import config as settings
from detection.training.evaluation import Evaluation
from detection.training.loop import Outcome
from detection.training.micro_batches import TrainingBatch

Batches = Callable[[int], Iterable[TrainingBatch]]  # first step → this rank's micro-batches from that step on


def _unchanged(content: dict[str, Any]) -> dict[str, Any]:
    return content


@dataclass(frozen=True)
class Stage:
    """The network, data, recipe and outputs of one training.

    Attributes:
        name: name of the network, in the log and in messages.
        network: on the device; its `forward` returns the losses of a batch.
        batches: the recipe → the micro-batches; a dry run passes a recipe of fewer steps.
        training: the recipe.
        images: size of the training set.
        root: the run's folder.
        folder: where the log and the checkpoints are written.
        identity: the inputs of the training, JSON-serialisable; a checkpoint with another identity is refused.
        evaluate: step → figures and images for the log, called every `training.evaluate_every` steps and after the
            last; None for no evaluation.
        best_figure: the figure of `evaluate` by which the best weights are kept and written; None writes the last.
        save_config: writes the configuration; called by one process, after the checks that the run may use the folder.
        save: writes the results of the finished training; called by one process, even if all steps were done before.
        files: all files that `save_config` and `save` write.
        model: what is needed beside the weights to build the network from a checkpoint, as plain values.
        recipe_keys: where the recipe is in `identity`, so that a run may go on with more steps; empty refuses that.
        seconds_after: estimate of what follows this training in a chain, for the progress line; None: nothing is said.
        upgrade_checkpoint: the content of a checkpoint of an earlier version → the same in today's form.
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
    evaluate: Callable[[int], Evaluation] | None
    best_figure: str | None
    save_config: Callable[[], None]
    save: Callable[[Outcome], None]
    files: tuple[Path, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    recipe_keys: tuple[str, ...] = ()
    seconds_after: float | None = None
    upgrade_checkpoint: Callable[[dict[str, Any]], dict[str, Any]] = _unchanged


def root_of(output: str | None, name: str) -> Path:
    """The folder of a run: `output` of its configuration, or `runs/<name>`."""
    return user_path(output) if output is not None else Path("runs") / name
