"""A configuration → a trained, evaluated detector: both trainings and the evaluation, one after the other.

What an earlier call into the same folder finished is not done again: each training resumes from its newest checkpoint,
and a finished one returns at once. A call with another configuration is refused with the keys that differ.
"""

from __future__ import annotations

import dataclasses
import logging

import torch

from detection import config as settings
from detection.evaluation.average_precision import AveragePrecision
from detection.experiment import evaluate, stages
from detection.experiment.datasets import has_test_split
from detection.experiment.model_files import load_detector
from detection.experiment.run_folder import RunFolder
from detection.training.distributed import on_main
from detection.training.loop import Outcome
from detection.training.run_lock import run_lock

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """The end of a chain.

    Attributes:
        outcome: of the last training that ran; not finished if a signal interrupted it.
        folder: the run's folder.
        figures: of the detector on the test split; None without one, or if the training was interrupted.
    """

    outcome: Outcome
    folder: RunFolder
    figures: AveragePrecision | None = None


def train_and_evaluate(config: settings.Config, device: torch.device) -> ChainResult:
    """Trains the RPN, makes its proposals, trains the Fast R-CNN, and evaluates the detector on the test split.

    With several ranks, each calls this, inside `detection.training.distributed.process_group`.

    Raises:
        UserError: the errors of `train_rpn`, `train_fast_rcnn` and `evaluate_detector`.
    """
    folder = RunFolder.of(config)
    outcome = stages.train_rpn(config, device, resume=True)
    if outcome.finished:
        outcome = stages.train_fast_rcnn(config, device, resume=True)
    if not outcome.finished:
        return ChainResult(outcome, folder)
    if not has_test_split(config.data):
        on_main(lambda: logger.info("data.test names no files: the detector %s is not evaluated", folder.detector))
        return ChainResult(outcome, folder)
    trained = load_detector(folder.detector)
    with run_lock(folder.evaluation):
        figures = evaluate.evaluate_detector(config, trained, device, folder.evaluation, weights=folder.detector)
    return ChainResult(outcome, folder, figures)
