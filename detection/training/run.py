"""A stage → its training with log, checkpoints and evaluations, and the files that it writes."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection import config as settings
from detection.config_file import is_written_config
from detection.training.artifacts import resembles_artifact
from detection.training.checkpoints import Checkpointer
from detection.training.determinism import without_deterministic_form
from detection.training.distributed import on_main, world_size
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.recipe import (
    accumulation_steps,
    autocast_dtype,
    batch_in_words,
    effective_learning_rate,
    optimizer_for,
    schedule_for,
)
from detection.training.stage import Stage

logger = logging.getLogger(__name__)


def require_replaceable(*files: Path) -> None:
    """Checks that a training may replace these files (its configuration and its networks). Every rank calls this.

    Raises:
        UserError: there is one that no training wrote, or a configuration that was changed since.
    """
    on_main(lambda: _require_replaceable(files))


def _require_replaceable(files: Sequence[Path]) -> None:
    for path in files:
        is_ours = is_written_config if path.suffix == ".yaml" else resembles_artifact
        if os.path.lexists(path) and not is_ours(path):
            raise UserError(
                f"{printable(str(path))}: would be replaced, and no training wrote it, or it was changed since; name "
                "another output folder (--output), or move it away"
            )


def run_training(stage: Stage, *, resume: bool) -> Outcome:
    """Trains a stage by its recipe, and first logs the resulting batch size, epochs and learning rate.

    Args:
        resume: continue from the newest checkpoint, if there is one.

    Returns:
        The outcome: finished, with the stage's files written, or interrupted by a signal, with a checkpoint written.

    Raises:
        UserError: the folder cannot be used; a loss that is not finite; and the other errors of `train`.
    """
    training, runtime = stage.training, stage.runtime
    log = TrainingLog(stage.folder, name=stage.name, tensorboard=runtime.tensorboard)

    def on_start(step: int) -> None:
        on_main(stage.save_config)
        for line in announcement(training, stage.images):
            log.remark(step, line)
        for name in without_deterministic_form(stage.network, stage.device) if runtime.deterministic else []:
            log.remark(step, f"runtime.deterministic: {name} has no deterministic form here")

    outcome = train_stage(
        stage,
        steps=training.steps,
        schedule=schedule_for(training),
        checkpointer=Checkpointer(
            stage.folder,
            stage.identity,
            keep=training.keep_checkpoints,
            warn=logger.warning,
            upgrade=stage.upgrade_checkpoint,
        ),
        checkpoint_every=training.checkpoint_every,
        resume=resume,
        log=log,
        log_every=training.log_every,
        evaluate=stage.evaluate,
        evaluate_every=training.evaluate_every or 0,
        on_start=on_start,
    )
    if not outcome.finished:
        on_main(
            lambda: logger.info(
                "stopped after step %d of %d; --resume goes on from the checkpoint in %s",
                outcome.step, training.steps, stage.folder,
            )
        )  # fmt: skip
        return outcome
    if outcome.first_step == outcome.step:
        on_main(lambda: logger.info("all %d steps were done before", training.steps))
    on_main(lambda: stage.save(outcome))
    return outcome


def train_stage(stage: Stage, *, steps: int, schedule: Callable[[int], float], **options: Any) -> Outcome:
    """Calls `train` with the stage's recipe, but for `steps` steps and with the learning rates of `schedule`. options:
    the others of `train`."""
    training = stage.training
    return train(
        stage.network,
        stage.batches(dataclasses.replace(training, steps=steps)),
        optimizer_for(stage.network, training),
        steps=steps,
        schedule=schedule,
        global_batch=training.global_batch,
        accumulation=accumulation_steps(training, world_size()),
        device=stage.device,
        autocast=autocast_dtype(stage.runtime, stage.device),
        clip_norm=training.clip_norm,
        **options,
    )


def announcement(training: settings.Training, images: int) -> Sequence[str]:
    """Lines of text on the batch size, epochs and learning rate of the recipe for this many images."""
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
            f"step and was scaled to {training.global_batch}; learning_rate_batch=null uses it unscaled"
        )
    return lines
