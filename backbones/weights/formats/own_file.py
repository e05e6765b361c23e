"""A file of this project's tools → the backbone in it: tensors by torchvision's names, and their input format.

classifier.pt  the whole network
fastrcnn.pt    the trunk and conv5, its layer4; the heads are left out
rpn.pt         the trunk alone, conv1 to conv4: enough for another RPN
detector.pt    the Fast R-CNN's backbone, which is complete; the RPN's is in the rpn.pt that the detector was made from
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...common.errors import UserError
from ...input_format import InputFormat
from .prefixes import find_prefix, under_prefix

_ANCHORS = ("conv1.weight", "layer1.0.conv1.weight")
_CONV5 = re.compile(r"(?:.*\.)?conv5\.(\d+\..+)")
_DETECTORS = {"rpn": "rpn", "fastrcnn": "fastrcnn", "detector": "fastrcnn"}  # by the file's kind: the network taken


def is_own(content: Mapping[str, Any]) -> bool:
    """Whether a file's content was written by this project's tools."""
    return isinstance(content.get("kind"), str) and ("network" in content or "networks" in content)


def read_own(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], InputFormat, tuple[str, ...]]:
    """(tensors, the input they expect, first parts of the names of what was left out).

    Raises:
        UserError: a file of another kind, or one whose content is not as the tools write it.
    """
    kind = content["kind"]
    left_out: tuple[str, ...] = ()
    if kind == "classifier":
        network, stated = content.get("network"), content.get("input_format")
    elif kind in _DETECTORS:
        networks, formats = content.get("networks"), content.get("input_formats")
        taken = _DETECTORS[kind]
        network = networks.get(taken) if isinstance(networks, Mapping) else None
        stated = formats.get(taken) if isinstance(formats, Mapping) else None
        if kind == "detector":
            left_out = ("rpn",)
    elif kind == "checkpoint":
        raise UserError(
            f"{path}: a checkpoint of an unfinished run of this project. Start from what the finished run leaves: "
            "classifier.pt, rpn.pt, fastrcnn.pt or detector.pt"
        )
    else:
        raise UserError(f"{path}: of a kind of this project that holds no backbone")
    if not isinstance(network, Mapping):
        raise UserError(f"{path}: a {kind} without its network; write it anew")
    if not isinstance(stated, Mapping):
        raise UserError(f"{path}: a {kind} without its input_format; write it anew")
    tensors = {name: value for name, value in network.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if kind == "classifier":
        return tensors, _input_format(stated, path), left_out
    prefix = find_prefix(tensors, _ANCHORS, path)
    if prefix is None:
        raise UserError(f"{path}: a {kind} whose backbone is none of these networks")
    trunk, others = under_prefix(tensors, prefix)
    conv5 = {match[1]: tensors[name] for name in tensors if (match := _CONV5.fullmatch(name))}
    state = {**trunk, **{f"layer4.{name}": tensor for name, tensor in conv5.items()}}
    return state, _input_format(stated, path), (*left_out, *(part for part in others if not _is_conv5(tensors, part)))


def _is_conv5(tensors: Mapping[str, Tensor], part: str) -> bool:
    """Whether all weights that begin with `part` are conv5's, so that none of them is left out."""
    return all(_CONV5.fullmatch(name) for name in tensors if name.startswith(f"{part}."))


def _input_format(stated: Mapping[str, Any], path: Path) -> InputFormat:
    try:
        return InputFormat.from_dict(stated)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
