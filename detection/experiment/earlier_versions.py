"""Weights and checkpoints of earlier versions → the same by today's names.

Keys of configurations that were renamed are in `detection/config_file.py`, which every reader of a configuration goes
by. Files by earlier versions are in `tests/detection/experiment/files_of_earlier_versions/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from detection.config import Config
from detection.config_file import config_to_dict, rename_keys

# Beginnings of weights' names, earlier → today's. One is applied where the network has the new name and not the old.
RENAMED_WEIGHTS = {"conv5.": "box_head.conv5."}  # Fast R-CNN
# Keys of what a checkpoint says of its run.
RENAMED_IDENTITY = {"pictures": "images"}


def rename_weights(state: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A file's weights by the names that the network has today. `names`: all of these."""

    def today(name: str) -> str:
        for earlier, new in RENAMED_WEIGHTS.items():
            renamed = new + name.removeprefix(earlier)
            if name.startswith(earlier) and name not in names and renamed in names:
                return renamed
        return name

    return {today(name): value for name, value in state.items()}


def make_checkpoint_upgrade(
    network: nn.Module, identity: Mapping[str, Any]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For the checkpoints of a training of `network` with this identity: content → the same by today's names."""

    def upgrade(content: dict[str, Any]) -> dict[str, Any]:
        provenance = upgrade_identity(json.loads(content["provenance"]), identity)
        return {
            **content,
            "provenance": json.dumps(provenance, sort_keys=True),
            "network": rename_weights(content["network"], network.state_dict().keys()),
        }

    return upgrade


def upgrade_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run, as today's version would say it.

    Values of the configuration that it does not name are the defaults, as in a configuration's file. What it does not
    say of its RPN is what we say of ours, if both have the same file.
    """
    renamed = {RENAMED_IDENTITY.get(key, key): value for key, value in theirs.items()}
    if isinstance(renamed.get("config"), Mapping) and isinstance(ours.get("config"), Mapping):
        config = rename_keys(renamed["config"])
        renamed["config"] = _completed(config, ours["config"], config_to_dict(Config()))
    if "rpn" in ours and "rpn" not in renamed and renamed.get("rpn_sha256") == ours.get("rpn_sha256"):
        renamed["rpn"] = ours["rpn"]
    return renamed


def _completed(values: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and for each key of `wanted` that it lacks, the default."""
    completed = dict(values)
    for key, value in wanted.items():
        if key not in completed:
            if key in defaults:
                completed[key] = defaults[key]
        elif isinstance(value, Mapping) and isinstance(completed[key], Mapping):
            inner = defaults.get(key)
            completed[key] = _completed(completed[key], value, inner if isinstance(inner, Mapping) else {})
    return completed
