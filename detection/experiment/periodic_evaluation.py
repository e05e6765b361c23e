"""A network that is being trained and the test split → the figures and images of an evaluation during the training."""

from __future__ import annotations

import torch

from detection import config as settings
from detection.data.index import DatasetIndex
from detection.experiment.illustrations import of_detector, of_rpn
from detection.experiment.inference import average_precision_of, prepare_inference, proposal_recall_of
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN
from detection.training.distributed import is_main
from detection.training.evaluation import Evaluation


def evaluate_proposals(network: RPN, index: DatasetIndex, config: settings.Config, device: torch.device) -> Evaluation:
    """The recall of an RPN. Every rank calls this."""
    recall = proposal_recall_of(prepare_inference(network, config, device), index, config.rpn.test_proposals)
    return Evaluation(_numbers(recall.to_dict()["figures"]), of_rpn(recall) if _draws(config.runtime) else {})


def evaluate_detections(
    network: FasterRCNN, index: DatasetIndex, config: settings.Config, device: torch.device
) -> Evaluation:
    """The COCO figures of a pair of networks. Every rank calls this."""
    figures, detections = average_precision_of(prepare_inference(network, config, device), index)
    images = of_detector(index, figures, detections) if _draws(config.runtime) else {}
    return Evaluation(_numbers(figures.figures), images)


def _draws(runtime: settings.Runtime) -> bool:
    """Whether this process draws images of evaluations for a logger."""
    return is_main() and (runtime.tensorboard or bool(runtime.loggers))


def _numbers(figures: dict[str, float | None]) -> dict[str, float]:
    """Figures with NaN in place of None: there was no object to compute them by."""
    return {name: float("nan") if value is None else value for name, value in figures.items()}
