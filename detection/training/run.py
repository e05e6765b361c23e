"""A stage → its training with log, checkpoints and evaluations, and the files that it writes."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection import config as settings
from detection.config_file import is_written_config
from detection.training.artifacts import resembles_artifact
from detection.training.averaging import WeightAverage
from detection.training.best import Best
from detection.training.checkpoints import Checkpointer
from detection.training.determinism import without_deterministic_form
from detection.training.distributed import on_main, world_size
from detection.training.loggers import import_services
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.more_steps import MoreSteps
from detection.training.precision import Name
from detection.training.precision_trial import decided
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
    stage, precision = decided(stage, _earlier_precision(stage) if resume else None)
    training, runtime = stage.training, stage.runtime
    interval = training.evaluate_every
    if interval == "auto":
        raise ValueError("the stage has to decide how often it evaluates")
    on_main(lambda: list(import_services(runtime.loggers)))  # raises its error before anything is written
    log = TrainingLog(
        stage.folder,
        name=stage.name,
        tensorboard=runtime.tensorboard,
        services=runtime.loggers,
        headline=stage.best_figure,
        seconds_after=stage.seconds_after,
    )

    def on_start(step: int) -> None:
        on_main(stage.save_config)
        if (text := more_steps.remark(step)) is not None:
            log.remark(step, text)
        for line in announcement(training, stage.images):
            log.remark(step, line)
        if precision.why != "as configured" or precision.name != "fp32":
            log.remark(step, f"computed in {precision}")
        for name in without_deterministic_form(stage.network, stage.device) if runtime.deterministic else []:
            log.remark(step, f"runtime.deterministic: {name} has no deterministic form here")

    more_steps = MoreSteps(training, stage.recipe_keys)
    checkpointer = Checkpointer(
        stage.folder,
        stage.identity,
        keep=training.keep_checkpoints,
        warn=logger.warning,
        upgrade=stage.upgrade_checkpoint,
        model=stage.model,
        more_steps=more_steps if stage.recipe_keys else None,
        precision=precision.name,
    )
    best = Best(stage.best_figure, training.patience if stage.best_figure is not None else None)
    average = None if training.ema is None else WeightAverage(stage.network, training.ema)
    outcome = train_stage(
        stage,
        steps=training.steps,
        schedule=schedule_for(training),
        checkpointer=checkpointer,
        checkpoint_every=training.checkpoint_every,
        resume=resume,
        log=log,
        log_every=training.log_every,
        evaluate=stage.evaluate,
        evaluate_every=interval or 0,
        best=best,
        average=average,
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
        on_main(lambda: logger.info("all %d steps were done before", outcome.step))
    outcome = _take_weights_to_write(stage, outcome, checkpointer, best, average)
    outcome = dataclasses.replace(outcome, precision=precision.name)
    on_main(lambda: stage.save(outcome))
    return outcome


def _earlier_precision(stage: Stage) -> Name | None:
    """That of the run's newest checkpoint, where the configuration does not state one."""
    if stage.runtime.precision != "auto":
        return None
    found = Checkpointer(stage.folder, stage.identity, warn=logger.warning).stored_precision()
    return cast(Name, found) if found in get_args(Name) else None


def _take_weights_to_write(
    stage: Stage, outcome: Outcome, checkpointer: Checkpointer, best: Best, average: WeightAverage | None
) -> Outcome:
    """Gives the stage's network the weights of the best evaluation, or otherwise the last, averaged where they are;
    returns the outcome with a description of them."""
    step, words = outcome.step, "the last"
    if 0 < best.step < outcome.step and checkpointer.load_best(stage.network, best.step):
        step, words = best.step, str(best)
    else:
        if best.step == outcome.step:
            words = str(best)
        if average is not None:
            average.apply()
    if average is not None:
        words += f", averaged with a decay of {average.decay}"
    if best.figure is not None or average is not None:
        on_main(lambda: logger.info("written are the weights after step %d of %d: %s", step, outcome.step, words))
    return dataclasses.replace(outcome, written_step=step, written=words, restarts=tuple(checkpointer.restarts))


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
