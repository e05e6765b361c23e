"""The two trainings of an experiment, each from a configuration: the RPN, then the Fast R-CNN on its proposals.

This is the place that joins the rooms: data, networks, training and evaluation know nothing of each other. Every stage
runs inside `detection.training.distributed.process_group`, alone or as one of several ranks, and leaves files that say
what they were made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.config_file import config_to_dict
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.experiment.box_statistics import measure
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.experiment.datasets import on_unreadable, open_training_splits, training_augmentation
from detection.experiment.inference import average_precision_of, proposal_recall_of
from detection.experiment.model_files import Categories, Trained, load_trained, save_trained
from detection.experiment.placement import accumulation_steps, batches_for, for_inference, placed
from detection.experiment.proposing import write_proposals
from detection.experiment.run_folder import RunFolder, write_config
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.artifacts import sha256_of
from detection.training.determinism import determinism
from detection.training.distributed import on_main, world_size
from detection.training.loop import Outcome
from detection.training.run import run_training
from detection.training.run_lock import run_lock

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
        training = config.rpn.training
        index, tested = open_training_splits(config.data, evaluate=training.evaluate_every is not None)
        torch.manual_seed(config.seed)
        network = placed(build_rpn(config), config.runtime, device)
        dataset = DetectionDataset(
            index, training_augmentation(config.data), seed=config.seed, unreadable=on_unreadable(config.data)
        )
        provenance = {"stage": "rpn", "train": index.fingerprint, "backbone": network.backbone.provenance}

        def evaluate(step: int) -> dict[str, float]:
            assert tested is not None
            recall = proposal_recall_of(config, for_inference(network, config.runtime, device), tested, device)
            return _numbers(recall.to_dict()["figures"])

        outcome = run_training(
            network,
            batches_for(config, training, dataset, device),
            training,
            config.runtime,
            device,
            folder.rpn_training,
            what="rpn",
            images=len(dataset),
            identity={**provenance, "images": _image_set(index), "config": _what_matters(config, "rpn")},
            evaluate=evaluate,
            save_config=lambda: write_config(config, folder.config),
            resume=resume,
        )
        was_complete = outcome.first_step == outcome.step and folder.rpn.is_file()
        if outcome.finished and not was_complete:  # proposals and checkpoints refer to the file by its hash
            trained = Trained(config, _categories(index), {**provenance, "steps": outcome.step}, rpn=network)
            on_main(lambda: save_trained(folder.rpn, trained))
        if outcome.finished:
            on_main(lambda: logger.info("written: %s; next: tools/train_fastrcnn.py", folder.rpn))
        return outcome


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
        training = config.fast_rcnn.training
        accumulation_steps(training, world_size())  # refuses too many processes now, before hours of proposing
        index, tested = open_training_splits(config.data, evaluate=training.evaluate_every is not None)
        if proposals_file is None:
            own, limits = folder.proposals(index.name), config.rpn.training_proposals
            proposals_file = write_proposals(config, rpn_file, index, device, own, limits)
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
            assert tested is not None
            detector = for_inference(pair(config, _load_rpn(rpn_file).to(device), network), config.runtime, device)
            figures, _ = average_precision_of(config, detector, tested, device)
            return _numbers(figures.figures)

        outcome = run_training(
            network,
            batches_for(config, training, dataset, device),
            training,
            config.runtime,
            device,
            folder.fast_rcnn_training,
            what="fastrcnn",
            images=len(dataset),
            identity={
                **provenance,
                "images": _image_set(index),
                "proposal_limit": limit,
                "config": _what_matters(config, "fast_rcnn"),
            },
            evaluate=evaluate,
            save_config=lambda: write_config(config, folder.config),
            resume=resume,
        )
        if outcome.finished:
            provenance["steps"] = outcome.step
            on_main(lambda: _save_detector(folder, config, categories, provenance, rpn_file, network))
            on_main(lambda: logger.info("written: %s; next: tools/eval_coco.py --weights %s", *2 * (folder.detector,)))
        return outcome


def with_box_statistics(config: settings.Config, index: DatasetIndex, store: ProposalStore) -> settings.Config:
    """The configuration with the box targets' means and stds measured, if it says `box_statistics: empirical`."""
    if config.fast_rcnn.box_statistics == "fixed":
        return config
    means, stds = measure(index, store, config.fast_rcnn.positive_iou, config.rpn.training_proposals.after_nms)
    on_main(lambda: logger.info("box targets: means %s, stds %s", means, stds))
    fast_rcnn = dataclasses.replace(config.fast_rcnn, box_means=means, box_stds=stds, box_statistics="fixed")
    return dataclasses.replace(config, fast_rcnn=fast_rcnn)


def _image_set(index: DatasetIndex) -> str:
    """Which of its data set's images an index has, in which order, as a text that tells it from others."""
    return f"{len(index)}, ids {hashlib.sha256(index.image_ids.tobytes()).hexdigest()[:12]}…"


def _what_matters(config: settings.Config, network: Literal["rpn", "fast_rcnn"]) -> dict[str, Any]:
    """The part of the configuration that a resumed training must share with the one that it continues.

    Left out are what `_image_set` and the proposals' metadata say, how the network is tested, and how the work is
    done.
    """
    values = config_to_dict(config)
    images = ("root", "layout", "train", "test", "keep_empty", "skip_unreadable")
    work = ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluate_every")
    for section, keys in (
        (values["data"], (*images, "test_shorter_side", "test_longer_side")),
        (values["rpn"], ("training_proposals", "test_proposals")),
        (values["fast_rcnn"], ("min_score", "nms_iou", "detections")),
        (values[network]["training"], work),
    ):
        for key in keys:
            section.pop(key)
    return {key: values[key] for key in ("seed", "data", "backbone", network)}


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
