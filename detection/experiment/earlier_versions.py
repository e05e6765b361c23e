"""Weights and checkpoints of earlier versions → the same with the names of this version.

Renamed keys of configurations are in `detection/config_file.py`, which every reader of a configuration uses. Files by
earlier versions are in `tests/detection/experiment/files_of_earlier_versions/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import nn

from detection.config import Config
from detection.config_file import config_to_dict, rename_keys

# Prefixes of weights' names, earlier → new. One is applied if the network has the new name and not the earlier one.
RENAMED_WEIGHTS = {"conv5.": "box_head.conv5."}  # Fast R-CNN
# Keys of the run identity in a checkpoint, earlier → new.
RENAMED_IDENTITY = {"pictures": "images"}


def rename_weights(state: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The weights of a file by the names that the network has now. `names`: all names of the network."""

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
    """A function: content of a checkpoint → the same with current names, for trainings of `network` with `identity`."""

    def upgrade(content: dict[str, Any]) -> dict[str, Any]:
        provenance = upgrade_identity(json.loads(content["provenance"]), identity)
        return {
            **content,
            "provenance": json.dumps(provenance, sort_keys=True),
            "network": rename_weights(content["network"], network.state_dict().keys()),
        }

    return upgrade


def upgrade_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """The run identity in a checkpoint → the same in the form of this version.

    Missing values of the configuration are set to the defaults, as in a configuration file. A missing description of
    the RPN is taken from `ours`, if both used the same RPN file.
    """
    renamed = {RENAMED_IDENTITY.get(key, key): value for key, value in theirs.items()}
    renamed = _with_whole_config(renamed, ours)
    if isinstance(renamed.get("rpn"), Mapping) and isinstance(ours.get("rpn"), Mapping):
        renamed["rpn"] = _with_whole_config(renamed["rpn"], ours["rpn"])
    if "rpn" in ours and "rpn" not in renamed and renamed.get("rpn_sha256") == ours.get("rpn_sha256"):
        renamed["rpn"] = ours["rpn"]
    return renamed


def _with_whole_config(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """`theirs`, its "config" with current names and with the defaults for the keys that only that of `ours` has."""
    if not (isinstance(theirs.get("config"), Mapping) and isinstance(ours.get("config"), Mapping)):
        return dict(theirs)
    config = rename_keys(theirs["config"])
    return {**theirs, "config": _completed(config, ours["config"], config_to_dict(Config()))}


def _completed(values: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with the default for each key of `wanted` that is missing."""
    completed = dict(values)
    for key, value in wanted.items():
        if key not in completed:
            if key in defaults:
                completed[key] = defaults[key]
        elif isinstance(value, Mapping) and isinstance(completed[key], Mapping):
            inner = defaults.get(key)
            completed[key] = _completed(completed[key], value, inner if isinstance(inner, Mapping) else {})
    return completed
