"""Checks that two artifacts fit each other: a trained network and a configuration, a checkpoint or file and a run.

Each difference is reported by its key, with both values.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.config_file import change_config, config_to_dict
from detection.data.index import DatasetIndex
from detection.experiment.earlier_versions import upgrade_identity
from detection.experiment.model_files import Trained, load_rpn
from detection.networks.rpn import RPN
from detection.training.checkpoints import Checkpointer, provenance_of, require_same_run
from detection.training.distributed import on_main
from detection.training.more_steps import MoreSteps

logger = logging.getLogger(__name__)

# Values that are fixed by training: the weights are valid only for these.
BACKBONE_KEYS = tuple(
    f"backbone.{key}"
    for key in (
        *("name", "norm", "depths", "cardinality", "base_width", "planes", "stem_width"),
        *("features", "pyramid_finest", "pyramid_width", "pyramid_norm"),
    )
)
_RPN = ("rpn.anchor_sizes", "rpn.anchor_ratios", "rpn.anchor_offset", "rpn.anchor_rounding", "rpn.channels")
_FAST_RCNN = (
    *("box_head", "box_head_width", "box_head_channels", "cascade"),
    *("pooling", "pooled_size", "sampling_ratio", "box_stds", "box_means", "box_statistics"),
)
_STRUCTURE = (*BACKBONE_KEYS, *_RPN, *(f"fast_rcnn.{key}" for key in _FAST_RCNN))
# Values that only inference uses.
_TEST_KEYS = {
    "data": ("test_shorter_side", "test_longer_side", "test_scales", "test_flip"),
    "fast_rcnn": (
        *("min_score", "nms_iou", "detections", "box_voting_iou"),
        *("nms", "nms_across_classes", "soft_nms_sigma", "soft_nms_min_score"),
    ),
}
_TEST_SIZE = ("data.test_shorter_side", "data.test_longer_side")


def change_trained(config: settings.Config, changes: Sequence[str], path: object) -> settings.Config:
    """The configuration of the trained file `path` with `key.sub=value` changes.

    Raises:
        UserError: a change cannot be made, or is of a value that is fixed by training.
    """
    changed = change_config(config, changes)
    different = differences(config, changed, _STRUCTURE, "trained with", "asked for")
    if different:
        raise UserError(f"{path}: these values are fixed by training and cannot be changed afterwards: {different}")
    return changed


def require_fitting_rpn(rpn: Trained[RPN], config: settings.Config, path: Path) -> None:
    """Compares a trained RPN, from the file `path`, with the configuration of the run that uses it. (Its backbone may
    be a different one: the two networks share nothing.)

    Logs a warning if it was trained for images of another size.

    Raises:
        UserError: the configuration states other anchors or another head than the RPN has.
    """
    different = differences(rpn.config, config, _RPN, "in the file", "by the configuration")
    if different:
        remedy = " ".join(shlex.quote(f"{key}={_text(rpn.config, key)}") for key in _RPN if f"{key}: " in different)
        raise UserError(f"{path}: is another RPN than the configuration states. {different}. To take it: {remedy}")
    size = differences(rpn.config, config, _TEST_SIZE, "for the RPN", "now")
    if size:
        on_main(lambda: logger.warning("%s was made for images of another size: %s", path, size))


def describe_image_set(image_ids: np.ndarray) -> str:
    """The number of images and a hash of their ids, int64 (M,), in order, as a text that differs between subsets of a
    data set."""
    return f"{len(image_ids)}, ids {hashlib.sha256(image_ids.tobytes()).hexdigest()[:12]}…"


def config_subset_that_must_match(config: settings.Config, network: Literal["rpn", "fast_rcnn"]) -> dict[str, Any]:
    """The part of the configuration that must not change when a training is resumed.

    It excludes what `describe_image_set` and the proposals' metadata describe, the settings for testing, and settings
    that do not change the result.
    """
    values = config_to_dict(config)
    images = ("root", "layout", "train", "test", "keep_empty", "skip_unreadable", "cache")
    work = ("images_per_device", "log_every", "checkpoint_every", "keep_checkpoints")
    choice = ("evaluate_every", "keep_best", "patience")  # which of the run's weights are written
    for section, keys in (
        (values["data"], (*images, *_TEST_KEYS["data"])),
        (values["rpn"], ("training_proposals", "test_proposals")),
        (values["fast_rcnn"], _TEST_KEYS["fast_rcnn"]),
        (values[network]["training"], (*work, *choice)),
    ):
        for key in keys:
            section.pop(key)
    return {key: values[key] for key in ("seed", "data", "backbone", network)}


def describe_fast_rcnn_run(
    config: settings.Config,
    index: DatasetIndex,
    rpn: Trained[RPN],
    rpn_sha256: str,
    store_metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """The inputs of a training of the Fast R-CNN, except the backbone's weights, and except the box statistics if they
    are still to be measured.

    rpn_sha256: that of the RPN's file. store_metadata: that of the proposals.
    """
    own = config_subset_that_must_match(config, "fast_rcnn")
    _leave_out_measured(own, config)
    return {
        "stage": "fastrcnn",
        "train": index.fingerprint,
        "rpn_sha256": rpn_sha256,
        "rpn": {
            **{key: rpn.provenance[key] for key in ("train", "steps") if key in rpn.provenance},
            "config": config_subset_that_must_match(rpn.config, "rpn"),
        },
        "proposals": {key: store_metadata[key] for key in ("limits", "sides") if key in store_metadata},
        "images": describe_image_set(index.image_ids),
        "proposal_limit": config.rpn.training_proposals.after_nms,
        "config": own,
    }


def _leave_out_measured(subset: dict[str, Any], config: settings.Config) -> None:
    """Removes the box statistics from a part of a configuration, if a training by `config` measures them."""
    if config.fast_rcnn.box_statistics == "empirical":
        for key in ("box_means", "box_stds", "box_statistics"):
            subset["fast_rcnn"].pop(key)


def refuse_other_run(folder: Path, known: Mapping[str, Any], more_steps: MoreSteps) -> None:
    """Compares the newest checkpoint in `folder` with the part of this run's identity that is known before the
    proposals are made.

    Raises:
        UserError: that checkpoint belongs to another run.
    """
    newest = Checkpointer(folder, {}).latest()
    if newest is None:
        return
    ours = json.loads(json.dumps(known))
    try:
        provenance, done = provenance_of(newest)
        theirs = more_steps.accept(upgrade_identity(provenance, ours), done)
    except (UserError, LookupError, TypeError, ValueError):  # a damaged one; resuming uses the one before
        return
    if "rpn" not in theirs:  # an earlier version's checkpoint
        ours.pop("rpn", None)
    elif theirs["rpn"] != ours["rpn"]:  # its keys say more than two hashes
        ours.pop("rpn_sha256", None)
    require_same_run(newest, theirs, ours, partly=True)


def is_rpn_of_run(path: Path, rpn: Trained[RPN]) -> bool:
    """Whether the file holds the same RPN: the same weights, provenance, and the configuration that must match.

    False for a file that an earlier run wrote into the same folder.
    """
    try:
        found = load_rpn(path)
    except UserError:
        return False
    # what only describes; files of earlier versions have no "data"
    ours, theirs = (
        {key: value for key, value in one.provenance.items() if key not in ("versions", "data")} for one in (rpn, found)
    )
    own, state = rpn.network.state_dict(), found.network.state_dict()
    return (
        json.dumps(theirs, sort_keys=True) == json.dumps(ours, sort_keys=True)
        and config_subset_that_must_match(found.config, "rpn") == config_subset_that_must_match(rpn.config, "rpn")
        and all(torch.equal(value, own[name].cpu()) for name, value in state.items())
    )


def differences(
    first: settings.Config, second: settings.Config, keys: Sequence[str], of_first: str, of_second: str
) -> str:
    """The keys whose values differ, with both: "a.b: 1 in the file, 2 by the configuration; …"; empty if none."""
    return "; ".join(
        f"{key}: {_text(first, key)} {of_first}, {_text(second, key)} {of_second}"
        for key in keys
        if _text(first, key) != _text(second, key)
    )


def _text(config: settings.Config, key: str) -> str:
    """The value of a full key such as "rpn.channels", in the form that YAML and the command line accept."""
    return json.dumps(functools.reduce(getattr, key.split("."), config), separators=(",", ":"))


def is_result_of(
    trained: Trained[Any], config: settings.Config, index: DatasetIndex, network: Literal["rpn", "fast_rcnn"]
) -> bool:
    """Whether a finished training by this configuration on these images wrote the network: where its checkpoints are
    gone, and what they say cannot be compared. (A training whose weights file changed since is not recognised.)"""
    provenance = json.loads(json.dumps(trained.provenance))
    subsets = [config_subset_that_must_match(one, network) for one in (trained.config, config)]
    if network == "fast_rcnn":
        for subset in subsets:
            _leave_out_measured(subset, config)
    images = [(one.data.train.limit, one.data.keep_empty, one.init_from) for one in (trained.config, config)]
    limits, sides = config.rpn.training_proposals, [config.data.test_shorter_side, config.data.test_longer_side]
    proposals = json.loads(json.dumps({"limits": config_to_dict(limits), "sides": sides}))
    return (
        provenance.get("train") == index.fingerprint
        and provenance.get("weights") != "of a checkpoint"
        and subsets[0] == subsets[1]
        and images[0] == images[1]
        and (network == "rpn" or provenance.get("proposals") == proposals)
    )
