"""Training a classifier from a configuration: images, network, loop, and the file that detectors start from.

    <output>/config.yaml       the whole configuration
    <output>/classifier/       checkpoints and log
    <output>/classifier.pt     the trained network

With several ranks, each calls `train_classifier`, inside `detection.training.distributed.process_group`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from detection.classifier.classifier_file import TrainedClassifier, save_classifier
from detection.classifier.config import ClassifierConfig
from detection.classifier.image_input import open_split, training_view, views_for_test
from detection.classifier.labelled_batches import TrainingSamples, training_batches_for
from detection.classifier.network import ClassifierTraining, build_classifier
from detection.classifier.top_errors import top_errors
from detection.config_file import config_to_dict
from detection.experiment.placement import placed
from detection.experiment.run_folder import root_of, write_config
from detection.training.consensus import require_agreement
from detection.training.determinism import determinism
from detection.training.distributed import on_main
from detection.training.loop import Outcome
from detection.training.run import run_training
from detection.training.run_lock import run_lock

logger = logging.getLogger(__name__)


def run_folder(config: ClassifierConfig) -> Path:
    """Where the run keeps its files: what the configuration names, or `runs/<name>`."""
    return root_of(config.output, config.name)


def train_classifier(config: ClassifierConfig, device: torch.device, *, resume: bool = False) -> Outcome:
    """Trains the network and leaves `classifier.pt` in the run's folder.

    Args:
        resume: go on from the newest checkpoint, if there is one.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: data, weights or folder cannot be used; a loss that is not finite.
    """
    require_agreement("train a classifier", config, resume=resume)
    folder = run_folder(config)
    with run_lock(folder / "classifier"), determinism(config.runtime):
        images = open_split(config.data, "train")
        training = config.training.in_steps(len(images))
        tested = None if training.evaluate_every is None else open_split(config.data, "test", images.classes)
        torch.manual_seed(config.seed)
        network = build_classifier(config.network, len(images.classes))
        if config.runtime.compile:
            network.compile()
        placed(network, config.runtime, device)
        provenance: dict[str, Any] = {
            "stage": "classifier",
            "train": images.fingerprint,
            "backbone": network.provenance,
        }

        def evaluate(step: int) -> dict[str, float]:
            assert tested is not None
            errors = top_errors(network, tested, views_for_test(config.data), config.runtime, device)
            return {"top1_error": errors.top1, "top5_error": errors.top5}

        view = training_view(config.data, network.input_format)
        samples = TrainingSamples(images, view, config.seed, config.data.skip_unreadable)
        outcome = run_training(
            ClassifierTraining(network),
            training_batches_for(samples, training, config.runtime, device),
            training,
            config.runtime,
            device,
            folder / "classifier",
            what="classifier",
            images=len(images),
            identity={**provenance, "config": _what_matters(config)},
            evaluate=evaluate,
            save_config=lambda: write_config(config, folder / "config.yaml"),
            resume=resume,
        )
        if outcome.finished:
            trained = TrainedClassifier(
                config, images.classes, network, {**provenance, "steps": outcome.step, "test": outcome.metrics}
            )
            on_main(lambda: save_classifier(folder / "classifier.pt", trained))
            on_main(lambda: logger.info("written: %s", folder / "classifier.pt"))
        return outcome


def _what_matters(config: ClassifierConfig) -> dict[str, Any]:
    """The part of the configuration that a resumed training must share with the one that it continues."""
    values = config_to_dict(config)
    for key in ("root", "train", "test", "skip_unreadable", "test_resize", "test_size"):
        values["data"].pop(key)
    for key in ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every"):
        values["training"].pop(key)
    return {key: values[key] for key in ("seed", "data", "network", "training")}
