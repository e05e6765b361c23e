"""A configuration → a trained classifier, in the file that detectors start from.

    <output>/config.yaml       the whole configuration
    <output>/classifier/       checkpoints and log
    <output>/classifier.pt     the trained network

With several ranks, each calls `train_classifier`, inside `detection.training.distributed.process_group`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from detection.classifier.classifier_file import TrainedClassifier, load_classifier, save_classifier
from detection.classifier.config import ClassifierConfig
from detection.classifier.image_input import open_split, training_view, views_for_test
from detection.classifier.labelled_batches import TrainingSamples, training_batches_for
from detection.classifier.network import ClassifierTraining, build_classifier
from detection.classifier.top_errors import top_errors
from detection.config_file import config_to_dict, write_config
from detection.training.consensus import require_agreement
from detection.training.determinism import determinism
from detection.training.dry_run import dry_run
from detection.training.evaluation import Evaluation
from detection.training.loop import Outcome
from detection.training.placement import placed
from detection.training.run import require_replaceable, run_training
from detection.training.run_lock import run_lock
from detection.training.stage import Stage, root_of

logger = logging.getLogger(__name__)


def run_folder(config: ClassifierConfig) -> Path:
    """The folder of the run's files: the configuration's `output`, or `runs/<name>`."""
    return root_of(config.output, config.name)


def train_classifier(config: ClassifierConfig, device: torch.device, *, resume: bool = False) -> Outcome:
    """Trains the network and writes `classifier.pt` into the run's folder.

    Args:
        resume: resume from the newest checkpoint, if there is one.

    Returns:
        The outcome: finished, or interrupted by a signal after a checkpoint was written.

    Raises:
        UserError: data, weights or folder cannot be used; a loss that is not finite.
    """
    require_agreement("train a classifier", config, resume=resume)
    with run_lock(run_folder(config) / "classifier"), determinism(config.runtime):
        stage = classifier_stage(config, device)
        require_replaceable(*stage.files)
        return run_training(stage, resume=resume)


def plan_classifier(config: ClassifierConfig, device: torch.device) -> str:
    """The plan of `train_classifier`, as text. Raises the same errors."""
    require_agreement("plan a classifier's training", config)
    return dry_run(classifier_stage(config, device))


def classifier_stage(config: ClassifierConfig, device: torch.device) -> Stage:
    """The training of a classifier.

    Raises:
        UserError: data or weights cannot be used.
    """
    folder = run_folder(config)
    images = open_split(config.data, "train")
    training = config.training.in_steps(len(images))
    tested = None if training.evaluate_every is None else open_split(config.data, "test", images.classes)
    torch.manual_seed(config.seed)
    network = build_classifier(config.network, len(images.classes))
    if config.runtime.compile:
        network.compile()
    placed(network, config.runtime, device)
    provenance = {"stage": "classifier", "train": images.fingerprint, "backbone": network.provenance}
    samples = TrainingSamples(
        images, training_view(config.data, network.input_format), config.seed, config.data.skip_unreadable
    )
    path = folder / "classifier.pt"

    def evaluate(step: int) -> Evaluation:
        assert tested is not None
        errors = top_errors(network, tested, views_for_test(config.data), config.runtime, device)
        return Evaluation({"top1_error": errors.top1, "top5_error": errors.top5})

    def save(outcome: Outcome) -> None:
        own = {**provenance, "steps": outcome.step, "test": outcome.metrics}
        trained = TrainedClassifier(config, images.classes, network, own)
        # After a resume at the last step there are no figures. The file is kept: a detector refers to it by its hash.
        if outcome.first_step < outcome.step or not _is_of_run(path, trained):
            save_classifier(path, trained)
        logger.info("written: %s", path)

    return Stage(
        name="classifier",
        network=ClassifierTraining(network),
        batches=lambda training: training_batches_for(samples, training, config.runtime, device),
        training=training,
        runtime=config.runtime,
        device=device,
        images=len(images),
        root=folder,
        folder=folder / "classifier",
        identity={**provenance, "config": _config_subset_that_must_match(config)},
        evaluate=None if tested is None else evaluate,
        best_figure=None,
        save_config=lambda: write_config(config, folder / "config.yaml"),
        save=save,
        files=(folder / "config.yaml", path),
    )


def _config_subset_that_must_match(config: ClassifierConfig) -> dict[str, Any]:
    """The part of the configuration that a resumed training must share with the one that it continues."""
    values = config_to_dict(config)
    for key in ("root", "train", "test", "skip_unreadable", "test_resize", "test_size"):
        values["data"].pop(key)
    for key in ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every"):
        values["training"].pop(key)
    return {key: values[key] for key in ("seed", "data", "network", "training")}


def _is_of_run(path: Path, trained: TrainedClassifier) -> bool:
    """Whether the file holds the weights of `trained`, from the same data and configuration.

    A file of an earlier run in the same folder does not.
    """
    try:
        found = load_classifier(path)
    except UserError:
        return False
    own, state = trained.network.state_dict(), found.network.state_dict()
    return (
        _made_of(found) == _made_of(trained)
        and own.keys() == state.keys()
        and all(torch.equal(value, own[name].cpu()) for name, value in state.items())
    )


def _made_of(trained: TrainedClassifier) -> str:
    provenance = {key: value for key, value in trained.provenance.items() if key not in ("versions", "test")}
    return json.dumps(
        [provenance, _config_subset_that_must_match(trained.config), list(trained.classes)], sort_keys=True
    )
