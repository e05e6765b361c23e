"""Training a classifier from a configuration: pictures, network, loop, and the file that detectors start from.

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
from torch import nn

from detection.classifier.batches import TrainingSamples, training_batches_for
from detection.classifier.config import ClassifierConfig
from detection.classifier.evaluate import top_errors
from detection.classifier.model_file import TrainedClassifier, save_classifier
from detection.classifier.network import ClassifierTraining, build_classifier
from detection.classifier.splits import open_split, training_view, views_for_test
from detection.config_file import config_to_dict, config_to_yaml
from detection.files import atomic_write
from detection.recipe import (
    accumulation_steps,
    autocast_dtype,
    determinism,
    effective_learning_rate,
    optimizer_for,
    placed,
    schedule_for,
)
from detection.training.checkpoints import Checkpointer
from detection.training.distributed import broadcast_object, on_main, world_size
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.run_lock import run_lock

logger = logging.getLogger(__name__)


def run_folder(config: ClassifierConfig) -> Path:
    """Where the run keeps its files: what the configuration names, or `runs/<name>`."""
    return Path(config.output) if config.output is not None else Path("runs") / config.name


def train_classifier(config: ClassifierConfig, device: torch.device, *, resume: bool = False) -> Outcome:
    """Trains the network and leaves `classifier.pt` in the run's folder.

    Args:
        resume: go on from the newest checkpoint, if there is one.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: data, weights or folder cannot be used; a loss that is not finite.
    """
    folder = run_folder(config)
    with run_lock(folder / "classifier"), determinism(config.runtime):
        pictures = open_split(config.data, "train")
        training = config.training.in_steps(len(pictures))
        tested = None if training.evaluate_every is None else open_split(config.data, "test", pictures.classes)
        torch.manual_seed(config.seed)
        network = build_classifier(config.network, len(pictures.classes))
        if config.runtime.compile:
            network.compile()
        placed(network, config.runtime, device)
        provenance: dict[str, Any] = {
            "stage": "classifier",
            "train": pictures.fingerprint,
            "backbone": network.provenance,
        }
        log = TrainingLog(folder / "classifier", name="classifier", tensorboard=config.runtime.tensorboard)
        rate = effective_learning_rate(training)
        log.message(
            f"{len(pictures)} pictures of {len(pictures.classes)} classes; {training.global_batch} a step = "
            f"{world_size()} process(es) × {accumulation_steps(training, world_size())} micro-batch(es); "
            f"{training.steps} steps, {config.training.epochs} epochs; learning rate {rate:g}"
            + ("" if rate == training.learning_rate else f", scaled from {training.learning_rate:g} to the batch")
        )

        def evaluate(step: int) -> dict[str, float]:
            assert tested is not None
            _share_buffers(network)
            errors = top_errors(network, tested, views_for_test(config.data), config.runtime, device)
            return {"top1_error": errors.top1, "top5_error": errors.top5}

        on_main(lambda: _write_config(config, folder))
        samples = TrainingSamples(pictures, training_view(config.data, network.input_format), config.seed)
        outcome = train(
            ClassifierTraining(network),
            training_batches_for(samples, training, config.runtime, device),
            optimizer_for(network, training),
            steps=training.steps,
            schedule=schedule_for(training),
            global_batch=training.global_batch,
            accumulation=accumulation_steps(training, world_size()),
            device=device,
            autocast=autocast_dtype(config.runtime, device),
            clip_norm=training.clip_norm,
            checkpointer=Checkpointer(
                folder / "classifier",
                {**provenance, "config": _what_matters(config)},
                keep=training.keep_checkpoints,
                warn=logger.warning,
            ),
            checkpoint_every=training.checkpoint_every,
            resume=resume,
            log=log,
            log_every=training.log_every,
            evaluate=None if tested is None else evaluate,
            evaluate_every=training.evaluate_every or 0,
        )
        if outcome.finished:
            trained = TrainedClassifier(
                config, pictures.classes, network, {**provenance, "steps": outcome.step, "test": outcome.metrics}
            )
            on_main(lambda: save_classifier(folder / "classifier.pt", trained))
        return outcome


def _share_buffers(network: nn.Module) -> None:
    """Gives every rank rank 0's running statistics, as its next step would: the network that is measured is then the
    one that is saved."""
    shared = broadcast_object({name: buffer.cpu() for name, buffer in network.named_buffers()})
    for name, buffer in network.named_buffers():
        buffer.copy_(shared[name])


def _what_matters(config: ClassifierConfig) -> dict[str, Any]:
    """The part of the configuration that a resumed training must share with the one that it continues."""
    values = config_to_dict(config)
    for key in ("root", "train", "test", "test_resize", "test_size"):
        values["data"].pop(key)
    for key in ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every"):
        values["training"].pop(key)
    return {key: values[key] for key in ("seed", "data", "network", "training")}


def _write_config(config: ClassifierConfig, folder: Path) -> None:
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(config_to_yaml(config), encoding="utf-8")
