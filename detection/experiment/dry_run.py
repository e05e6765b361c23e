"""Dry runs of the two trainings: a configuration → the time, memory and disk space of the run, measured on a few steps.

Nothing is written into the run's folder. (The demo's images are drawn and weights are downloaded as in a real run.)
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from pathlib import Path

import torch

from backbones.common.files import sha256_of
from backbones.common.units import format_duration
from detection import config as settings
from detection.common.evenly_spread import evenly_spread
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.experiment.agreement import require_fitting_rpn
from detection.experiment.builders import build_rpn
from detection.experiment.inference import Inference, prepare_inference, propose
from detection.experiment.model_files import Trained, load_rpn
from detection.experiment.proposing import current_store, store_metadata
from detection.experiment.run_folder import RunFolder
from detection.experiment.stages import RPNFile, Splits, categories_of, fast_rcnn_stage, open_splits, rpn_stage
from detection.networks.rpn import RPN
from detection.training.consensus import require_agreement
from detection.training.distributed import gather_objects, on_main
from detection.training.dry_run import dry_run

logger = logging.getLogger(__name__)

_STEPS = 4
_PROPOSAL_BYTES = 20  # four corners and a score, float32


def of_rpn(config: settings.Config, device: torch.device) -> str:
    """The plan of `stages.train_rpn`, as text."""
    require_agreement("plan the RPN's training", config)
    return dry_run(rpn_stage(config, device))


def of_fast_rcnn(
    config: settings.Config,
    device: torch.device,
    *,
    rpn_file: Path | None = None,
    proposals_file: Path | None = None,
) -> str:
    """The plan of `stages.train_fast_rcnn`, as text. If there is no trained RPN, an untrained one is used, which takes
    the same time.

    Raises:
        UserError: as `stages.train_fast_rcnn`, except for a missing RPN.
    """
    require_agreement("plan the Fast R-CNN's training", config)
    folder = RunFolder.of(config)
    splits = open_splits(config, config.fast_rcnn.training)
    rpn_file = rpn_file or folder.rpn
    is_trained = rpn_file.is_file()
    if is_trained:
        opened = RPNFile(load_rpn(rpn_file), sha256_of(rpn_file))
        require_fitting_rpn(opened.rpn, config, rpn_file)
    else:
        opened = RPNFile(Trained(build_rpn(config), config, categories_of(splits.train)), "")
    limits, own = config.rpn.training_proposals, folder.proposals(splits.train.name)
    standing = None
    if proposals_file is not None:
        standing = ProposalStore(proposals_file)
    elif is_trained:
        metadata = store_metadata(config, opened.sha256, splits.train, limits)
        standing = on_main(lambda: current_store(own, metadata, splits.train))
    notes = [] if is_trained else [f"{rpn_file} is not there yet"]
    if standing is not None:
        standing.check_against(splits.train, opened.sha256 if is_trained else None)
        text = dry_run(fast_rcnn_stage(config, device, splits, opened, standing))
    else:
        on_main(lambda: logger.info("measuring how long proposing takes …"))
        some = some_images(splits.train, config.fast_rcnn.training)
        inference = prepare_inference(opened.rpn.network, config, device)
        with tempfile.TemporaryDirectory() as temporary:
            began = time.monotonic()
            store = proposals_of_some(inference, some, limits, Path(temporary) / "proposals.st")
            # The processes shared these images, as they will share all images of the split.
            proposing = (time.monotonic() - began) / len(some) * len(splits.train)
            stage = fast_rcnn_stage(config, device, Splits(some, splits.test), opened, store)
            text = dry_run(
                dataclasses.replace(stage, images=len(splits.train)),
                written_before=[own, own.with_name(f"{own.name}.lock")],
                bytes_before=len(splits.train) * limits.after_nms * _PROPOSAL_BYTES,
            )
        text += f"\nproposals first   {len(splits.train)} images, about {format_duration(proposing)}"
        notes = [f"{note}: an untrained RPN proposed" for note in notes]
    return "\n".join([text, *(f"{'note':<18}{note}" for note in notes)])


def some_images(index: DatasetIndex, training: settings.Training) -> DatasetIndex:
    """The images of `_STEPS` steps, evenly spaced over the data set: enough to measure proposing and steps."""
    return index.subset(evenly_spread(len(index), training.global_batch * _STEPS))


def proposals_of_some(
    inference: Inference[RPN], index: DatasetIndex, limits: settings.ProposalLimits, path: Path
) -> ProposalStore:
    writer = ProposalWriter(path, {"dataset_fingerprint": index.fingerprint}, index.image_ids)
    own = list(propose(dataclasses.replace(inference, workers=0), index, limits))
    for image_id, boxes, scores in (image for share in gather_objects(own) for image in share):
        writer.add(image_id, boxes, scores)
    writer.finish()
    return ProposalStore(path)
