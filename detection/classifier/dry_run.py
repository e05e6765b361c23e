"""A dry run of a classifier's training: everything is built, a few steps are measured, nothing is written."""

from __future__ import annotations

import torch

from detection.classifier.config import ClassifierConfig
from detection.classifier.image_input import open_split, training_view
from detection.classifier.labelled_batches import TrainingSamples, training_batches_for
from detection.classifier.network import ClassifierTraining, build_classifier
from detection.classifier.stage import run_folder
from detection.experiment import dry_run as plan
from detection.experiment.placement import placed
from detection.training.consensus import require_agreement


def of_classifier(config: ClassifierConfig, device: torch.device) -> str:
    """The plan of `stage.train_classifier`, as text."""
    require_agreement("plan a classifier's training", config)
    folder = run_folder(config)
    images = open_split(config.data, "train")
    training = config.training.in_steps(len(images))
    network = placed(build_classifier(config.network, len(images.classes)), config.runtime, device)
    view = training_view(config.data, network.input_format)
    samples = TrainingSamples(images, view, config.seed, config.data.skip_unreadable)
    pace = plan.measured_pace(
        ClassifierTraining(network),
        lambda short: training_batches_for(samples, short, config.runtime, device),
        training,
        config.runtime,
        device,
    )
    files = plan.files_of_training(folder / "classifier", config.runtime)
    written = [folder / "config.yaml", folder / "classifier.pt", *files]
    return plan.describe("classifier", network, training, len(images), pace, device, written, folder)
