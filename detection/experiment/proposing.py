"""A trained RPN and a split → a proposal store; with several ranks, the images are divided among them.

A store that was made by the same RPN on the same data under the same limits is kept. An unfinished one is continued.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import sha256_of
from detection import config as settings
from detection.config_file import config_to_dict
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore
from detection.data.proposal_writer import ProposalWriter
from detection.experiment.datasets import open_split, training_images
from detection.experiment.inference import prepare_inference
from detection.experiment.inference import propose as proposals_of
from detection.experiment.label_location import Which
from detection.experiment.model_files import Trained, load_rpn
from detection.experiment.run_folder import RunFolder
from detection.networks.rpn import RPN
from detection.training.artifacts import versions
from detection.training.consensus import require_agreement, require_same
from detection.training.distributed import barrier, is_main, on_main
from detection.training.folder_watch import FolderWatch
from detection.training.run_lock import run_lock

T = TypeVar("T")

_ESSENTIAL = ("dataset_fingerprint", "rpn_sha256", "limits", "sides")  # metadata that decides a store's boxes

logger = logging.getLogger(__name__)


def propose(
    config: settings.Config,
    rpn_file: Path,
    which: Which,
    device: torch.device,
    *,
    output: Path | None = None,
) -> Path:
    """Writes the proposals of a trained RPN on the train or test split; continues an unfinished store.

    Args:
        rpn_file: an `rpn.pt` or `detector.pt`.
        output: the store; by default `proposals/<split>.st` in the run's folder.

    Returns:
        The store's path. A store there that was made by the same RPN on the same data under the same limits is kept.

    Raises:
        UserError: data, weights or output cannot be used.
    """
    require_agreement(f"propose on {which}", config)
    index = open_split(config.data, which)
    output = output or RunFolder.of(config).proposals(index.name)
    limits = config.rpn.test_proposals
    if which == "train":
        index, limits = training_images(config.data, index), config.rpn.training_proposals
    rpn = load_rpn(rpn_file)
    metadata = store_metadata(config, sha256_of(rpn_file), index, limits)
    return write_proposals(config, rpn, metadata, index, device, output, limits).path


def write_proposals(
    config: settings.Config,
    rpn: Trained[RPN],
    metadata: dict[str, Any],
    index: DatasetIndex,
    device: torch.device,
    output: Path,
    limits: settings.ProposalLimits,
) -> ProposalStore:
    """Writes the proposals of a trained RPN on `index` to `output`, unless they exist already; see `propose`.

    metadata: the result of `store_metadata` for them.
    """
    require_same("the proposals", {key: metadata[key] for key in _ESSENTIAL})
    standing = on_main(lambda: current_store(output, metadata, index))
    if standing is not None:
        return standing
    inference = prepare_inference(rpn.network, config, device)
    with run_lock(output.parent, f"{output.name}.lock"):
        watch = FolderWatch(output.parent, f"{output.name}.lock")
        writer = _first_on_main(lambda: ProposalWriter(output, metadata, index.image_ids, essential=_ESSENTIAL))
        pending = writer.pending
        barrier()  # no rank adds images before all have read which ones are pending
        for image_id, boxes, scores in proposals_of(inference, index, limits, pending=pending):
            writer.add(image_id, boxes, scores)
        writer.flush()
        barrier()
        on_main(watch.check)
        on_main(writer.finish)
    return ProposalStore(output)


def current_store(path: Path, metadata: dict[str, Any], index: DatasetIndex) -> ProposalStore | None:
    """The store at `path`, verified, if it is what `write_proposals` would write now. Warns if it is damaged."""
    if not path.exists():
        return None
    try:
        store = ProposalStore(path)
        if any(store.metadata.get(key) != metadata[key] for key in _ESSENTIAL):
            return None
        if not np.array_equal(store.image_ids, index.image_ids):
            return None
        store.verify()
    except UserError as error:
        logger.warning("%s; it is made anew", error)
        return None
    return store


def store_metadata(
    config: settings.Config, rpn_sha256: str, index: DatasetIndex, limits: settings.ProposalLimits
) -> dict[str, Any]:
    """The metadata of a store with such proposals. `rpn_sha256`: that of the RPN's file."""
    return {
        "dataset_fingerprint": index.fingerprint,
        "rpn_sha256": rpn_sha256,
        "limits": config_to_dict(limits),
        "sides": [config.data.test_shorter_side, config.data.test_longer_side],
        "config": config_to_dict(config),
        "versions": versions(),
    }


def _first_on_main(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 and then on the others, which use the files that rank 0 has prepared."""
    if is_main():
        result = action()
        barrier()
        return result
    barrier()
    return action()
