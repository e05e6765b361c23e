"""The number of images, or a time → the steps of both trainings of a configuration, with the reason."""

from __future__ import annotations

import dataclasses
import math
import time

import torch

from backbones.common.errors import UserError
from backbones.common.units import format_duration
from detection import config as settings
from detection.experiment.paces import measure_paces
from detection.experiment.reasoned_config import ReasonedConfig
from detection.training.distributed import broadcast_object, world_size

_RPN_SHARE = 0.4  # of the time of both trainings; the Fast R-CNN's targets are more varied
_RESERVE = 0.08  # of the time given, for start, checkpoints and what else runs on the machine
_FEWEST = 20  # steps
_EPOCHS = 30  # of the RPN, without a time; half as many again for the Fast R-CNN
_LEAST_STEPS, _MOST_STEPS = {"cpu": 800, "cuda": 2_000}, {"cpu": 20_000, "cuda": 90_000}


def set_steps_by_images(fitted: ReasonedConfig, images: int, device: str) -> None:
    """Sets the steps by the size of the data."""
    for section, factor in (("rpn", 1.0), ("fast_rcnn", 1.5)):
        training: settings.Training = getattr(fitted.config, section).training
        epochs = math.ceil(factor * _EPOCHS * images / training.global_batch)
        steps = int(min(max(epochs, factor * _LEAST_STEPS[device]), factor * _MOST_STEPS[device]))
        done = steps * training.global_batch / images
        reason = f"{done:.0f} times each of {images} images: {_EPOCHS * factor:.0f} times, within bounds; " \
                 "--minutes sets another time"  # fmt: skip
        _set_steps(fitted, section, steps, reason)


def set_steps_by_time(fitted: ReasonedConfig, device: torch.device, minutes: float, began: float) -> None:
    """Sets the steps that measured ones leave room for."""
    for section in ("rpn", "fast_rcnn"):
        _set_steps(fitted, section, 100, "")
    paces = fitted.paces = measure_paces(fitted.config, device)
    fixed = paces.proposals() + 2 * paces.evaluation() + paces.last_evaluation() + time.monotonic() - began
    left = 60 * minutes * (1 - _RESERVE) - fixed
    if left < 0.2 * 60 * minutes:
        raise UserError(
            f"--minutes {minutes:g} is too short: measuring, proposals and evaluations take about "
            f"{format_duration(fixed)} here; give at least {math.ceil(2 * fixed / 60 / (1 - _RESERVE))}"
        )
    left = broadcast_object(left)
    for section, share, step in (
        ("rpn", _RPN_SHARE, paces.rpn_step),
        ("fast_rcnn", 1 - _RPN_SHARE, paces.fast_rcnn_step),
    ):
        training: settings.Training = getattr(fitted.config, section).training
        steps = int(share * left / step)
        while (
            steps > _FEWEST and paces.training(_with_steps(training, steps), step) > share * left + paces.evaluation()
        ):
            steps = int(0.98 * steps)
        reason = (
            f"{share:.0%} of the {format_duration(left)} of {minutes:g} minutes that measuring, proposals, the last "
            f"evaluations and a reserve of {_RESERVE:.0%} leave; a step takes {step:.3g} s, measured on "
            f"{world_size()} × {device}"
        )
        _set_steps(fitted, section, max(steps, _FEWEST), reason)


def _with_steps(training: settings.Training, steps: int) -> settings.Training:
    return dataclasses.replace(training, steps=steps)


def _set_steps(fitted: ReasonedConfig, section: str, steps: int, reason: str) -> None:
    fitted.change(reason, **{f"{section}__training__steps": steps})
    training: settings.Training = getattr(fitted.config, section).training
    steps = training.steps  # others, if they were given
    warmup = min(500 if training.global_batch > 4 else 50, steps // 5)
    fitted.change("at most a fifth of the steps", **{f"{section}__training__warmup_steps": warmup})
    every = max(min(steps // 5, 2000), 10)
    fitted.change("what a power cut loses at most", **{f"{section}__training__checkpoint_every": every})
    fitted.change("lines of the log", **{f"{section}__training__log_every": min(20, max(steps // 20, 1))})
