"""The stages of an experiment, each from a configuration: train the RPN, propose, train the Fast R-CNN, evaluate.

This is the place that joins the rooms: data, networks, training and evaluation know nothing of each other. Every stage
runs inside `detection.training.distributed.process_group`, alone or as one of several ranks, and leaves files that say
what they were made of.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from detection import config as settings
from detection.box_statistics import measure
from detection.builders import build_fast_rcnn, build_rpn, pair
from detection.config_file import config_to_dict, config_to_yaml
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.errors import UserError
from detection.fast_rcnn import FastRCNN
from detection.files import atomic_write
from detection.inference import average_precision_of, proposal_recall_of
from detection.inference import propose as proposals_of
from detection.model_files import Categories, Trained, load_trained, save_trained, versions
from detection.recipe import (
    accumulation_steps,
    autocast_dtype,
    batches_for,
    determinism,
    effective_learning_rate,
    for_inference,
    optimizer_for,
    placed,
    schedule_for,
)
from detection.rpn import RPN
from detection.run_folder import RunFolder
from detection.splits import on_unreadable, open_split, training_augmentation, training_pictures
from detection.training.artifacts import sha256_of
from detection.training.checkpoints import Checkpointer
from detection.training.distributed import barrier, is_main, on_main, world_size
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.run_lock import run_lock

T = TypeVar("T")

logger = logging.getLogger(__name__)


def train_rpn(config: settings.Config, device: torch.device, *, resume: bool = False) -> Outcome:
    """Trains the proposal network and leaves `rpn.pt` in the run's folder.

    Args:
        resume: go on from the newest checkpoint, if there is one.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: data, weights or folder cannot be used; a loss that is not finite.
    """
    folder = RunFolder.of(config)
    with run_lock(folder.rpn_training), determinism(config.runtime):
        index = training_pictures(config.data, open_split(config.data, "train"))
        torch.manual_seed(config.seed)
        network = placed(build_rpn(config), config.runtime, device)
        dataset = DetectionDataset(
            index, training_augmentation(config.data), seed=config.seed, unreadable=on_unreadable(config.data)
        )
        provenance = {"stage": "rpn", "train": index.fingerprint, "backbone": network.backbone.provenance}

        def evaluate(step: int) -> dict[str, float]:
            frozen = for_inference(network, config.runtime, device)
            recall = proposal_recall_of(config, frozen, open_split(config.data, "test"), device)
            return _numbers(recall.to_dict()["figures"])

        _write_config(config, folder)
        training = config.rpn.training
        outcome = _train(
            network, config, training, dataset, device, folder.rpn_training, provenance, evaluate, resume=resume
        )
        if outcome.finished:
            trained = Trained(config, _categories(index), {**provenance, "steps": outcome.step}, rpn=network)
            on_main(lambda: save_trained(folder.rpn, trained))
        return outcome


def propose(
    config: settings.Config,
    rpn_file: Path,
    which: Literal["train", "test"],
    device: torch.device,
    *,
    output: Path | None = None,
) -> Path:
    """Writes the proposals of a trained RPN on the train or test split; takes up a half-written store where it stopped.

    Args:
        rpn_file: an `rpn.pt` or `detector.pt`.
        output: the store; by default `proposals/<split>.st` in the run's folder.

    Returns:
        The store's path. A store there that was made by the same RPN on the same data under the same limits is kept.

    Raises:
        UserError: data, weights or output cannot be used.
    """
    index = open_split(config.data, which)
    output = output or RunFolder.of(config).proposals(index.name)
    if which == "train":
        return _propose(
            config, rpn_file, training_pictures(config.data, index), device, output, config.rpn.training_proposals
        )
    return _propose(config, rpn_file, index, device, output, config.rpn.test_proposals)


def _propose(
    config: settings.Config,
    rpn_file: Path,
    index: DatasetIndex,
    device: torch.device,
    output: Path,
    limits: settings.ProposalLimits,
) -> Path:
    trained = load_trained(rpn_file, "rpn", "detector")
    assert trained.rpn is not None
    metadata = {
        "dataset_fingerprint": index.fingerprint,
        "rpn_sha256": sha256_of(rpn_file),
        "limits": config_to_dict(limits),
        "sides": [config.data.test_shorter_side, config.data.test_longer_side],
        "config": config_to_dict(config),
        "versions": versions(),
    }
    if on_main(lambda: _is_current(output, metadata, index)):
        return output
    network = for_inference(trained.rpn, config.runtime, device)
    writer = _first_on_main(lambda: ProposalWriter(output, metadata, index.image_ids))
    pending = index.subset(np.flatnonzero(np.isin(index.image_ids, writer.pending)))
    barrier()  # no rank adds pictures before all have read which ones are pending
    for image_id, boxes, scores in proposals_of(config, network, pending, device, limits):
        writer.add(image_id, boxes, scores)
    writer.flush()
    barrier()
    on_main(writer.finish)
    return output


def train_fast_rcnn(
    config: settings.Config,
    device: torch.device,
    *,
    rpn_file: Path | None = None,
    proposals_file: Path | None = None,
    resume: bool = False,
) -> Outcome:
    """Trains the region classifier on the RPN's proposals; leaves `fastrcnn.pt` and, with the RPN, `detector.pt`.

    Args:
        rpn_file: the trained RPN; by default the run's own `rpn.pt`.
        proposals_file: proposals on the training split; by default the run's own, which are made if they are missing
            or were made by another RPN.
        resume: go on from the newest checkpoint, if there is one.

    Returns:
        How it ended: finished, or interrupted by a signal with a checkpoint left behind.

    Raises:
        UserError: no RPN; proposals that belong to other data or another RPN; and what `train_rpn` raises.
    """
    folder = RunFolder.of(config)
    rpn_file = rpn_file or folder.rpn
    if not rpn_file.is_file():
        raise UserError(f"{rpn_file}: no trained RPN; train one with tools/train_rpn.py, or name one with --rpn")
    with run_lock(folder.fast_rcnn_training), determinism(config.runtime):
        index = training_pictures(config.data, open_split(config.data, "train"))
        if proposals_file is None:
            own, limits = folder.proposals(index.name), config.rpn.training_proposals
            proposals_file = _propose(config, rpn_file, index, device, own, limits)
        store = ProposalStore.open(proposals_file)
        rpn_sha256 = sha256_of(rpn_file)
        store.check_against(index, rpn_sha256)
        config = with_box_statistics(config, index, store)
        categories = _categories(index)
        seed = config.seed + 1  # not the RPN's: the two networks share nothing
        torch.manual_seed(seed)
        network = placed(build_fast_rcnn(config, len(categories)), config.runtime, device)
        limit = config.rpn.training_proposals.after_nms
        dataset = DetectionDataset(
            index,
            training_augmentation(config.data),
            seed=seed,
            proposals=store,
            proposal_limit=limit,
            unreadable=on_unreadable(config.data),
        )
        provenance: dict[str, Any] = {
            "stage": "fastrcnn",
            "train": index.fingerprint,
            "rpn_sha256": rpn_sha256,
            "proposals": {key: store.metadata[key] for key in ("limits", "sides") if key in store.metadata},
            "backbone": network.trunk.provenance,
        }

        def evaluate(step: int) -> dict[str, float]:
            detector = for_inference(pair(config, _load_rpn(rpn_file).to(device), network), config.runtime, device)
            figures, _ = average_precision_of(config, detector, open_split(config.data, "test"), device)
            return _numbers(figures.figures)

        _write_config(config, folder)
        training = config.fast_rcnn.training
        outcome = _train(
            network, config, training, dataset, device, folder.fast_rcnn_training, provenance, evaluate, resume=resume
        )
        if outcome.finished:
            provenance["steps"] = outcome.step
            on_main(lambda: _save_detector(folder, config, categories, provenance, rpn_file, network))
        return outcome


def with_box_statistics(config: settings.Config, index: DatasetIndex, store: ProposalStore) -> settings.Config:
    """The configuration with the box targets' means and stds measured, if it says `box_statistics: empirical`."""
    if config.fast_rcnn.box_statistics == "fixed":
        return config
    means, stds = measure(index, store, config.fast_rcnn.positive_iou, config.rpn.training_proposals.after_nms)
    on_main(lambda: logger.info("box targets: means %s, stds %s", means, stds))
    fast_rcnn = dataclasses.replace(config.fast_rcnn, box_means=means, box_stds=stds, box_statistics="fixed")
    return dataclasses.replace(config, fast_rcnn=fast_rcnn)


def _train(
    network: nn.Module,
    config: settings.Config,
    training: settings.Training,
    dataset: DetectionDataset,
    device: torch.device,
    folder: Path,
    provenance: dict[str, Any],
    evaluate: Callable[[int], dict[str, float]],
    *,
    resume: bool,
) -> Outcome:
    """One network's training: what the two stages have in common."""
    stage = str(provenance["stage"])
    log = TrainingLog(folder, name=stage, tensorboard=config.runtime.tensorboard)
    _announce(training, dataset, log)
    return train(
        network,
        batches_for(config, training, dataset, device),
        optimizer_for(network, training),
        steps=training.steps,
        schedule=schedule_for(training),
        global_batch=training.global_batch,
        accumulation=accumulation_steps(training, world_size()),
        device=device,
        autocast=autocast_dtype(config.runtime, device),
        clip_norm=training.clip_norm,
        checkpointer=Checkpointer(
            folder,
            {**provenance, "config": _what_matters(config, stage)},
            keep=training.keep_checkpoints,
            warn=logger.warning,
        ),
        checkpoint_every=training.checkpoint_every,
        resume=resume,
        log=log,
        log_every=training.log_every,
        evaluate=evaluate if training.evaluate_every else None,
        evaluate_every=training.evaluate_every or 0,
    )


def _announce(training: settings.Training, dataset: DetectionDataset, log: TrainingLog) -> None:
    rate = effective_learning_rate(training)
    log.message(
        f"{len(dataset)} pictures; {training.global_batch} a step = {world_size()} process(es) × "
        f"{accumulation_steps(training, world_size())} micro-batch(es) of up to {training.images_per_device}; "
        f"{training.steps} steps, {training.steps * training.global_batch / len(dataset):.1f} epochs; "
        f"learning rate {rate:g}"
    )
    if rate != training.learning_rate:
        log.message(
            f"the learning rate {training.learning_rate:g} is stated for {training.learning_rate_batch} pictures a "
            f"step and was scaled to {training.global_batch}; learning_rate_batch=null takes it as it stands"
        )


def _what_matters(config: settings.Config, stage: str) -> dict[str, Any]:
    """The part of the configuration that a resumed training must share with the one that it continues."""
    values = config_to_dict(config)
    where_and_how = ("root", "layout", "train", "test", "skip_unreadable")
    data = {key: value for key, value in values["data"].items() if key not in where_and_how}
    network = values["rpn" if stage == "rpn" else "fast_rcnn"]
    for key in ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every"):
        network["training"].pop(key)
    return {"seed": values["seed"], "data": data, "backbone": values["backbone"], stage: network}


def _is_current(path: Path, metadata: dict[str, Any], index: DatasetIndex) -> bool:
    """Whether the store at `path` is what would be made now; a damaged one is not, and is made anew."""
    if not path.exists():
        return False
    try:
        store = ProposalStore.open(path)
    except UserError as error:
        logger.warning("%s; it is made anew", error)
        return False
    keys = ("dataset_fingerprint", "rpn_sha256", "limits", "sides")
    same = all(store.metadata.get(key) == metadata[key] for key in keys)
    return same and np.array_equal(store.image_ids, index.image_ids)


def _first_on_main(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0, then on the others: what the first prepares, the others find."""
    if is_main():
        result = action()
        barrier()
        return result
    barrier()
    return action()


def _load_rpn(path: Path) -> RPN:
    rpn = load_trained(path, "rpn", "detector").rpn
    assert rpn is not None
    return rpn


def _save_detector(
    folder: RunFolder,
    config: settings.Config,
    categories: Categories,
    provenance: dict[str, Any],
    rpn_file: Path,
    network: FastRCNN,
) -> None:
    rpn = load_trained(rpn_file, "rpn", "detector")
    save_trained(folder.fast_rcnn, Trained(config, categories, provenance, fast_rcnn=network))
    both = {"rpn": rpn.provenance, "fastrcnn": provenance}
    rpn_config = rpn.rpn_config or rpn.config
    save_trained(folder.detector, Trained(config, categories, both, rpn.rpn, network, rpn_config))


def _categories(index: DatasetIndex) -> Categories:
    return Categories(tuple(index.category_ids.tolist()), tuple(index.category_names))


def _numbers(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


def _write_config(config: settings.Config, folder: RunFolder) -> None:
    def write() -> None:
        with atomic_write(folder.config) as temporary:
            temporary.write_text(config_to_yaml(config), encoding="utf-8")

    on_main(write)
