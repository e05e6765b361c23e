"""A configuration → how long its stages take here, measured on a few steps and images with untrained networks.

Nothing is written. An untrained network takes the time of a trained one: the numbers of proposals and of sampled
regions are the configuration's.
"""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from detection import config as settings
from detection.data.index import DatasetIndex
from detection.experiment.builders import pair
from detection.experiment.dry_run import proposals_of_some, some_images
from detection.experiment.evaluation_interval import automatic_interval
from detection.experiment.inference import prepare_inference
from detection.experiment.model_files import Trained
from detection.experiment.periodic_evaluation import evaluate_detections
from detection.experiment.stages import RPNFile, Splits, categories_of, fast_rcnn_stage, open_splits, rpn_stage
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN
from detection.training.distributed import broadcast_object, on_main
from detection.training.pace import measure_pace
from detection.training.precision_trial import decided

logger = logging.getLogger(__name__)

_EVALUATED = 8  # images
# The last evaluation detects a second time, with the ground truth as proposals (the Fast R-CNN alone), and draws.
_LAST_EVALUATION = 1.7


@dataclass(frozen=True)
class Paces:
    """Seconds on this machine: of a step of each training, of an image whose proposals are stored, of an evaluated
    image, and of an evaluation beyond its images; and the numbers of training and test images (0: none)."""

    rpn_step: float
    proposing: float
    fast_rcnn_step: float
    evaluating: float
    evaluation_start: float
    train_images: int
    test_images: int

    def proposals(self) -> float:
        """Seconds for the proposals on the training split."""
        return self.proposing * self.train_images

    def evaluation(self) -> float:
        """Seconds for one evaluation during a training."""
        return self.evaluation_start + self.evaluating * self.test_images if self.test_images else 0.0

    def last_evaluation(self) -> float:
        """Seconds for the evaluation of the detector, with its report."""
        return _LAST_EVALUATION * self.evaluation()

    def training(self, training: settings.Training, step: float) -> float:
        """Seconds for one training, evaluations included, with steps of `step` seconds."""
        return training.steps * step + self._evaluations(training) * self.evaluation()

    def after_rpn(self, config: settings.Config) -> float:
        """Seconds for all that follows the training of the RPN."""
        return self.proposals() + self.training(config.fast_rcnn.training, self.fast_rcnn_step) + self.last_evaluation()

    def _evaluations(self, training: settings.Training) -> int:
        if not self.test_images:
            return 0
        every = training.evaluate_every
        if every == "auto":
            every = automatic_interval(training, self.test_images)
        return 0 if every is None else -(-training.steps // every)


def measure_paces(config: settings.Config, device: torch.device) -> Paces:
    """The times of a run on this machine; every rank calls this.

    Raises:
        UserError: data or weights cannot be used.
    """
    on_main(lambda: logger.info("measuring how long a step takes here …"))
    splits = open_splits(config, config.rpn.training)
    stage = rpn_stage(config, device)
    assert isinstance(stage.network, RPN)
    rpn_step = measure_pace(decided(stage)[0]).step
    opened = RPNFile(Trained(stage.network.cpu(), config, categories_of(splits.train)), "")
    some = some_images(splits.train, config.fast_rcnn.training)
    inference = prepare_inference(opened.rpn.network, config, device)
    with tempfile.TemporaryDirectory() as temporary:
        began = time.monotonic()
        store = proposals_of_some(inference, some, config.rpn.training_proposals, Path(temporary) / "proposals.st")
        proposing = (time.monotonic() - began) / len(some)
        fast = fast_rcnn_stage(config, device, Splits(some, splits.test), opened, store)
        fast_step = measure_pace(decided(fast)[0]).step
    start, evaluating = 0.0, 0.0
    if splits.test is not None:
        assert isinstance(fast.network, FastRCNN)
        both = pair(config, opened.rpn.network.to(device), fast.network)
        start, evaluating = _evaluation_pace(both, splits.test, config, device)
    own = Paces(
        rpn_step,
        proposing,
        fast_step,
        evaluating,
        start,
        len(splits.train),
        0 if splits.test is None else len(splits.test),
    )
    return broadcast_object(own)


def _evaluation_pace(
    both: FasterRCNN, test: DatasetIndex, config: settings.Config, device: torch.device
) -> tuple[float, float]:
    """Seconds of an evaluation beyond its images, and of one image."""
    some = test.subset(range(min(len(test), _EVALUATED)))
    seconds = []
    for count in (1, 1, len(some)):  # the first one warms up
        began = time.monotonic()
        evaluate_detections(both, some.subset(range(count)), config, device)
        seconds.append(time.monotonic() - began)
    image = max(seconds[2] - seconds[1], 0.0) / max(len(some) - 1, 1)
    return max(seconds[1] - image, 0.0), image
