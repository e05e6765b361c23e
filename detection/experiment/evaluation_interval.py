"""`evaluate_every: auto` of a training, and the size of its test split → the number of steps between two evaluations.

The interval is a function of the configuration and the data, not of measured times: a run that was stopped and resumed
must evaluate at the same steps as an uninterrupted one, because the best weights are chosen among those steps.
"""

from __future__ import annotations

import dataclasses
import math

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.evaluation.recall import LIMITS

# Evaluated images as a share of trained images. Evaluating an image takes about as long as training on one: it needs no
# gradient, but all proposals, and for the Fast R-CNN both networks. (On BCCD and two CPU cores 0.6 of the time for the
# RPN, 1.2 for the Fast R-CNN: 3 and 6 % of the training.) This stays below a tenth of the time.
_SHARE = 0.05
_MOST = 50  # evaluations of one training


def automatic_interval(training: settings.Training, test_images: int) -> int:
    """Steps between evaluations with which at most `_SHARE` as many images are evaluated as trained on; at least one
    evaluation, after the last step.

    >>> automatic_interval(settings.Training(steps=900, global_batch=4), test_images=73)
    450
    """
    evaluations = int(_SHARE * training.steps * training.global_batch / max(test_images, 1))
    return math.ceil(training.steps / min(max(evaluations, 1), _MOST))


def with_interval(training: settings.Training, test: DatasetIndex | None) -> settings.Training:
    """The recipe with a number of steps in place of `evaluate_every: auto`; None where there is no test split.

    Raises:
        UserError: there is no test split, and the recipe cannot do without one.
    """
    if training.evaluate_every != "auto":
        return training
    if test is not None:
        return dataclasses.replace(training, evaluate_every=automatic_interval(training, len(test)))
    if training.patience is not None or training.keep_best not in (None, "auto"):
        raise UserError(
            "training.patience and training.keep_best need evaluations, and data.test names no files: name them, or "
            "leave the two out"
        )
    return dataclasses.replace(training, evaluate_every=None)


def best_figure(training: settings.Training, default: str) -> str | None:
    """The figure of an evaluation by which the best weights are kept; None if none are."""
    if training.evaluate_every is None:
        return None
    return default if training.keep_best == "auto" else training.keep_best


def recall_figure(limits: settings.ProposalLimits) -> str:
    """The name of the average recall at as many proposals an image as a detector takes, or the next larger number that
    is measured."""
    return f"AR_{next((limit for limit in LIMITS if limit >= limits.after_nms), LIMITS[-1])}"
