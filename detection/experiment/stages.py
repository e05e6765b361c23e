"""A configuration → the two trainings of an experiment: the RPN, then the Fast R-CNN on its proposals.

`rpn_stage` and `fast_rcnn_stage` join data, network, recipe and evaluation into a stage; `train_rpn` and
`train_fast_rcnn` run it, and `detection/experiment/dry_run.py` measures it. Every stage runs inside
`detection.training.distributed.process_group`, as a single process or as one of several ranks, and writes files that
contain their provenance.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backbones.common.errors import UserError
from backbones.common.files import sha256_of
from detection import config as settings
from detection.config_file import write_config
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.experiment.agreement import (
    config_subset_that_must_match,
    describe_fast_rcnn_run,
    describe_image_set,
    is_rpn_of_run,
    refuse_other_run,
    require_fitting_rpn,
)
from detection.experiment.box_statistics import apply_box_statistics
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.experiment.datasets import has_test_split, on_unreadable, open_training_splits
from detection.experiment.earlier_versions import make_checkpoint_upgrade
from detection.experiment.evaluation_interval import best_figure, recall_figure, with_interval
from detection.experiment.fine_tuning import initialise_fast_rcnn, initialise_rpn
from detection.experiment.model_card import NAME as MODEL_CARD
from detection.experiment.model_card import describe_data, write_model_card
from detection.experiment.model_files import (
    Categories,
    Trained,
    TrainedDetector,
    describe,
    load_rpn,
    save_detector,
    save_fast_rcnn,
    save_rpn,
)
from detection.experiment.periodic_evaluation import evaluate_detections, evaluate_proposals
from detection.experiment.planned_batches import make_batches
from detection.experiment.proposing import store_metadata, write_proposals
from detection.experiment.resizes import training_augmentation
from detection.experiment.run_folder import RunFolder
from detection.networks.rpn import RPN
from detection.training.consensus import require_agreement, require_same
from detection.training.determinism import determinism
from detection.training.distributed import on_main, world_size
from detection.training.evaluation import Evaluation
from detection.training.loop import Outcome
from detection.training.more_steps import MoreSteps
from detection.training.optimizer import freeze_parameters
from detection.training.placement import placed
from detection.training.recipe import accumulation_steps
from detection.training.run import require_replaceable, run_training
from detection.training.run_lock import run_lock
from detection.training.stage import Stage

logger = logging.getLogger(__name__)

# Where the recipes are in the identity of a run.
RPN_RECIPE = ("config", "rpn", "training")
FAST_RCNN_RECIPE = ("config", "fast_rcnn", "training")


@dataclass(frozen=True)
class Splits:
    """The training images, and the test images if the recipe includes evaluations during the training."""

    train: DatasetIndex
    test: DatasetIndex | None


@dataclass(frozen=True)
class RPNFile:
    """A trained RPN and the SHA-256 of its file, by which proposals and checkpoints refer to it."""

    rpn: Trained[RPN]
    sha256: str


def train_rpn(
    config: settings.Config, device: torch.device, *, resume: bool = False, seconds_after: float | None = None
) -> Outcome:
    """Trains the proposal network and writes `rpn.pt` into the run's folder.

    Args:
        resume: go on from the newest checkpoint, if there is one.
        seconds_after: estimate of what follows this training, for the progress line.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: data, weights or folder cannot be used; a loss that is not finite.
    """
    require_agreement("train the RPN", config, resume=resume)
    folder = RunFolder.of(config)
    with run_lock(folder.rpn_training), determinism(config.runtime):
        require_replaceable(folder.config, folder.rpn)
        stage = dataclasses.replace(rpn_stage(config, device), seconds_after=seconds_after)
        return run_training(stage, resume=resume)


def train_fast_rcnn(
    config: settings.Config,
    device: torch.device,
    *,
    rpn_file: Path | None = None,
    proposals_file: Path | None = None,
    resume: bool = False,
    seconds_after: float | None = None,
) -> Outcome:
    """Trains the region classifier on the RPN's proposals; writes `fastrcnn.pt` and, with the RPN, `detector.pt`.

    Args:
        rpn_file: the trained RPN; by default the run's own `rpn.pt`.
        proposals_file: proposals on the training split; by default the run's own, which are made if they are missing
            or were made by another RPN.
        resume: go on from the newest checkpoint, if there is one.
        seconds_after: estimate of what follows this training, for the progress line.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: there is no RPN, or it differs from the configuration; the proposals are of other data or of another
            RPN; and the errors of `train_rpn`.
    """
    require_agreement("train the Fast R-CNN", config, resume=resume)
    folder = RunFolder.of(config)
    rpn_file = rpn_file or folder.rpn
    if not rpn_file.is_file():
        raise UserError(f"{rpn_file}: no trained RPN; train one with tools/train_rpn.py, or name one with --rpn")
    with run_lock(folder.fast_rcnn_training), determinism(config.runtime):
        # Check everything now, before the proposals are made, which may take hours.
        require_replaceable(folder.config, folder.fast_rcnn, folder.detector)
        accumulation_steps(config.fast_rcnn.training, world_size())
        splits = open_splits(config, config.fast_rcnn.training)
        opened = RPNFile(load_rpn(rpn_file), sha256_of(rpn_file))
        require_same("the RPN", {"SHA-256": opened.sha256})
        require_fitting_rpn(opened.rpn, config, rpn_file)
        limits = config.rpn.training_proposals
        store = None if proposals_file is None else ProposalStore(proposals_file)
        made_of = store_metadata(config, opened.sha256, splits.train, limits)
        metadata = made_of if store is None else store.metadata
        if resume:
            known = describe_fast_rcnn_run(config, splits.train, opened.rpn, opened.sha256, metadata)
            more_steps = MoreSteps(config.fast_rcnn.training, FAST_RCNN_RECIPE)
            on_main(lambda: refuse_other_run(folder.fast_rcnn_training, known, more_steps))
        if store is None:
            own = folder.proposals(splits.train.name)
            store = write_proposals(config, opened.rpn, metadata, splits.train, device, own, limits)
        store.check_against(splits.train, opened.sha256)
        stage = fast_rcnn_stage(config, device, splits, opened, store)
        return run_training(dataclasses.replace(stage, seconds_after=seconds_after), resume=resume)


def open_splits(config: settings.Config, training: settings.Training) -> Splits:
    """The images of a training, and those of its evaluations. A training that evaluates automatically does without a
    test split that the configuration does not name.

    Raises:
        UserError: files are missing, or annotations cannot be used.
    """
    evaluate = training.evaluate_every is not None
    if training.evaluate_every == "auto" and not has_test_split(config.data):
        evaluate = False
        on_main(
            lambda: logger.info(
                "data.test names no files: no AP is computed during the training, no best weights are kept, and the "
                "training does not stop early; the last weights are written"
            )
        )
    return Splits(*open_training_splits(config.data, evaluate=evaluate))


def rpn_stage(config: settings.Config, device: torch.device) -> Stage:
    """The training of the proposal network.

    Raises:
        UserError: data or weights cannot be used.
    """
    folder = RunFolder.of(config)
    splits = open_splits(config, config.rpn.training)
    training = with_interval(config.rpn.training, splits.test)
    torch.manual_seed(config.seed)
    network = build_rpn(config, pretrained=config.init_from is None)
    initialise_rpn(network, config)
    freeze_parameters(network, training.freeze)
    network = placed(network, config.runtime, device)
    dataset = DetectionDataset(
        splits.train, training_augmentation(config.data), seed=config.seed, unreadable=on_unreadable(config.data)
    )
    provenance = {"stage": "rpn", "train": splits.train.fingerprint, "backbone": network.backbone.provenance}
    identity = {
        **provenance,
        "images": describe_image_set(splits.train.image_ids),
        "config": config_subset_that_must_match(config, "rpn"),
    }

    def evaluate(step: int) -> Evaluation:
        assert splits.test is not None
        return evaluate_proposals(network, splits.test, config, device)

    def save(outcome: Outcome) -> None:
        described = {"data": describe_data(splits.train), **_describe_weights(outcome)}
        rpn = Trained(network, config, categories_of(splits.train), provenance | described)
        if not is_rpn_of_run(folder.rpn, rpn):  # proposals and checkpoints refer to the file by its hash
            save_rpn(folder.rpn, rpn)
        logger.info("written: %s; next: tools/train_fastrcnn.py", folder.rpn)

    return Stage(
        name="rpn",
        training=training,
        folder=folder.rpn_training,
        evaluate=evaluate if splits.test is not None else None,
        best_figure=best_figure(training, recall_figure(config.rpn.test_proposals)),
        save=save,
        files=(folder.config, folder.rpn),
        model=describe("rpn", Trained(network, config, categories_of(splits.train), provenance)),
        recipe_keys=RPN_RECIPE,
        **_common_parts(config, device, network, dataset, identity),
    )


def fast_rcnn_stage(
    config: settings.Config, device: torch.device, splits: Splits, opened: RPNFile, store: ProposalStore
) -> Stage:
    """The training of the region classifier on the proposals in `store`, which the RPN made.

    Raises:
        UserError: weights cannot be used; too few proposals to measure the box statistics.
    """
    folder, training = RunFolder.of(config), with_interval(config.fast_rcnn.training, splits.test)
    config = apply_box_statistics(config, splits.train, store)
    categories = categories_of(splits.train)
    seed = config.seed + 1  # differs from the RPN's: the two networks share nothing
    torch.manual_seed(seed)
    counts = np.bincount(splits.train.labels[~splits.train.crowds], minlength=len(categories) + 1)[1:].tolist()
    network = build_fast_rcnn(config, len(categories), pretrained=config.init_from is None, class_counts=counts)
    initialise_fast_rcnn(network, categories, config)
    freeze_parameters(network, training.freeze)
    network = placed(network, config.runtime, device)
    dataset = DetectionDataset(
        splits.train,
        training_augmentation(config.data),
        seed=seed,
        proposals=store,
        proposal_limit=config.rpn.training_proposals.after_nms,
        unreadable=on_unreadable(config.data),
    )
    identity = {
        **describe_fast_rcnn_run(config, splits.train, opened.rpn, opened.sha256, store.metadata),
        "backbone": network.trunk.provenance,
    }
    provenance = {key: identity[key] for key in ("stage", "train", "rpn_sha256", "proposals", "backbone")}

    def evaluate(step: int) -> Evaluation:
        assert splits.test is not None
        return evaluate_detections(pair(config, opened.rpn.network.to(device), network), splits.test, config, device)

    def save(outcome: Outcome) -> None:
        described = {"data": describe_data(splits.train), **_describe_weights(outcome)}
        fast_rcnn = Trained(network, config, categories, provenance | described)
        save_fast_rcnn(folder.fast_rcnn, fast_rcnn)
        detector = TrainedDetector(opened.rpn, fast_rcnn)
        save_detector(folder.detector, detector)
        write_model_card(folder.root, detector, config)
        logger.info("written: %s; next: tools/eval_coco.py --weights %s", folder.detector, folder.detector)

    return Stage(
        name="fastrcnn",
        training=training,
        folder=folder.fast_rcnn_training,
        evaluate=evaluate if splits.test is not None else None,
        best_figure=best_figure(training, "AP"),
        save=save,
        files=(folder.config, folder.fast_rcnn, folder.detector, folder.root / MODEL_CARD),
        model=describe("fastrcnn", Trained(network, config, categories, provenance)),
        recipe_keys=FAST_RCNN_RECIPE,
        **_common_parts(config, device, network, dataset, identity),
    )


def _common_parts(
    config: settings.Config,
    device: torch.device,
    network: nn.Module,
    dataset: DetectionDataset,
    identity: dict[str, Any],
) -> dict[str, Any]:
    """The parts of a `Stage` that are the same for both networks."""
    folder = RunFolder.of(config)
    return {
        "network": network,
        "batches": make_batches(config, dataset, device),
        "runtime": config.runtime,
        "device": device,
        "images": len(dataset),
        "root": folder.root,
        "identity": identity,
        "save_config": lambda: write_config(config, folder.config),
        "upgrade_checkpoint": make_checkpoint_upgrade(network, identity),
    }


def categories_of(index: DatasetIndex) -> Categories:
    """The classes of a data set."""
    return Categories(tuple(index.category_ids.tolist()), tuple(index.category_names))


def _describe_weights(outcome: Outcome) -> dict[str, Any]:
    """The provenance of the weights that are written: after how many steps, and why those."""
    others = {} if outcome.written == "the last" else {"weights": f"{outcome.written}, of {outcome.step} steps"}
    restarts = {"restarts": list(outcome.restarts)} if outcome.restarts else {}
    precision = {"precision": outcome.precision} if outcome.precision != "fp32" else {}
    return {"steps": outcome.written_step, **others, **restarts, **precision}
