"""A network, a recipe, batches and a folder → a training with its log, checkpoints and measurements.

What the RPN, the Fast R-CNN and the classifiers have in common, between their configurations and the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detection import config as settings
from detection.experiment.placement import (
    accumulation_steps,
    autocast_dtype,
    batch_in_words,
    effective_learning_rate,
    optimizer_for,
    schedule_for,
)
from detection.training.checkpoints import Checkpointer
from detection.training.determinism import without_deterministic_form
from detection.training.distributed import on_main, world_size
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.micro_batches import TrainingBatch

logger = logging.getLogger(__name__)


def run_training(
    network: nn.Module,
    batches: Callable[[int], Iterable[TrainingBatch]],
    training: settings.Training,
    runtime: settings.Runtime,
    device: torch.device,
    folder: Path,
    *,
    what: str,
    images: int,
    identity: dict[str, Any],
    evaluate: Callable[[int], dict[str, float]],
    save_config: Callable[[], None],
    resume: bool,
) -> Outcome:
    """Trains by the recipe, and says beforehand what that comes to.

    Args:
        network: on the device; its `forward` gives the losses of a batch.
        batches: first step → this rank's micro-batches from there on.
        folder: of the log and the checkpoints.
        what: the network's name in the log.
        images: size of the training set.
        identity: JSON-able; a checkpoint of another identity is not continued.
        evaluate: step → figures for the log; called every `training.evaluate_every` steps and after the last.
        save_config: writes the configuration; called, by one process, only if the run may go on in the folder.
        resume: go on from the newest checkpoint, if there is one.
    """
    log = TrainingLog(folder, name=what, tensorboard=runtime.tensorboard)

    def on_start(step: int) -> None:
        on_main(save_config)
        for line in announcement(training, images):
            log.remark(step, line)
        for name in without_deterministic_form(network, device) if runtime.deterministic else []:
            log.remark(step, f"runtime.deterministic: {name} has no deterministic form here")

    outcome = train(
        network,
        batches,
        optimizer_for(network, training),
        steps=training.steps,
        schedule=schedule_for(training),
        global_batch=training.global_batch,
        accumulation=accumulation_steps(training, world_size()),
        device=device,
        autocast=autocast_dtype(runtime, device),
        clip_norm=training.clip_norm,
        checkpointer=Checkpointer(folder, identity, keep=training.keep_checkpoints, warn=logger.warning),
        checkpoint_every=training.checkpoint_every,
        resume=resume,
        log=log,
        log_every=training.log_every,
        evaluate=evaluate if training.evaluate_every else None,
        evaluate_every=training.evaluate_every or 0,
        on_start=on_start,
    )
    if not outcome.finished:
        on_main(
            lambda: logger.info(
                "stopped after step %d of %d; --resume goes on from the checkpoint in %s",
                outcome.step, training.steps, folder,
            )
        )  # fmt: skip
    elif outcome.first_step == outcome.step:
        on_main(lambda: logger.info("all %d steps were done before", training.steps))
    return outcome


def announcement(training: settings.Training, images: int) -> Sequence[str]:
    """What the recipe comes to on this many images and processes, in words."""
    rate = effective_learning_rate(training)
    lines = [
        f"{images} images; {batch_in_words(training, world_size())}; {training.steps} steps, "
        f"{training.steps * training.global_batch / images:.1f} epochs; learning rate {rate:g}"
    ]
    if training.global_batch > images:
        lines.append(f"a step takes {training.global_batch} images and there are {images}: each is in it several times")
    if rate != training.learning_rate:
        lines.append(
            f"the learning rate {training.learning_rate:g} is stated for {training.learning_rate_batch} images a "
            f"step and was scaled to {training.global_batch}; learning_rate_batch=null takes it as it stands"
        )
    return lines
