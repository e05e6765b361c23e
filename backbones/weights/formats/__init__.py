"""A file of weights in any format → tensors by torchvision's names, and what the file says about them.

Two questions are answered apart. What is the container? Its first bytes say so: a torch file, safetensors, a pickle, a
Torch7 file. How are the tensors named? Their names say so: torchvision's, Detectron's, detectron2's, or none at all in
Torch7's modules. One file of this folder per answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.files import require_plain_file
from ...input_format import InputFormat
from . import detectron, detectron2, fused_norm, restricted_pickle, safetensors_file, torch7, torch7_resnext, torch_file
from .prefixes import find_prefix, under_prefix

_TORCHVISION_ANCHORS = ("conv1.weight", "layer1.0.conv1.weight")  # two names that every such network has
_WRAPPERS = ("network", "state_dict", "model", "model_state_dict", "blobs")
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the pickled magic number of torch.save


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: tensors by torchvision's names (and, under names of their own, what could not be translated).
        layout: whose names they had: "torchvision", "detectron", "detectron2" or "torch7".
        frozen_norm_only: BN was fused into scale and bias, so it cannot train.
        input_format: what the file itself says of its input; only the project's own files say it.
        left_out: first parts of the names of what belongs to other networks in the same file (a detector's heads).
    """

    state_dict: dict[str, Tensor]
    layout: str
    frozen_norm_only: bool = False
    input_format: InputFormat | None = None
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of weights. None of its code is run, if it has any.

    Raises:
        UserError: the file is missing, damaged, of no known format, or holds no network.
    """
    path = Path(path)
    try:
        require_plain_file(path)
        content = _load_container(path)
    except OSError as error:
        raise UserError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if isinstance(content, torch7.Object):
        state = torch7_resnext.to_state_dict(content, path)
        fused_norm.absorb_convolution_bias(state)
        return Checkpoint(state, "torch7")
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: it holds {type(content).__name__} instead of a state dict")
    input_format = _own_input_format(content, path)
    tensors = _tensors(_unwrap(content), path)

    left_out: tuple[str, ...] = ()
    prefix = find_prefix(tensors, detectron2.ANCHORS, path)
    if detectron.is_named_so(tensors):
        layout, state = "detectron", detectron.rename(tensors)
    elif prefix is not None:
        tensors, left_out = under_prefix(tensors, prefix)
        layout, state = "detectron2", detectron2.rename(tensors)
    else:
        prefix = find_prefix(tensors, _TORCHVISION_ANCHORS, path)
        layout = "torchvision"
        state, left_out = (dict(tensors), ()) if prefix is None else under_prefix(tensors, prefix)
    fused = layout != "torchvision" and fused_norm.complete(state)
    if layout != "torchvision":
        fused_norm.absorb_convolution_bias(state)
    return Checkpoint(state, layout, fused, input_format, left_out)


def _load_container(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(16)
    size = path.stat().st_size
    if head.startswith((b"PK\x03\x04", _LEGACY_TORCH)):
        return torch_file.load(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return safetensors_file.load(path)
    if head[1:4] == b"\0\0\0" and 1 <= head[0] <= 8:
        return torch7.load(path)
    if head.startswith(b"\x80") or head[:1] in (b"(", b"}", b"c"):  # protocols 2 and above; 0 and 1
        return restricted_pickle.load(path)
    raise UserError(
        f"{path}: no format that is read here: torch file, safetensors, Torch7 (.t7), Detectron or detectron2 pickle. "
        + ("The file is empty" if size == 0 else f"It begins with {head!r}; was a web page saved in its place?")
    )


def _own_input_format(content: Mapping[str, Any], path: Path) -> InputFormat | None:
    """What a file of this project's tools says of its input. Raises UserError if it is no classifier's."""
    kind = content.get("kind")
    if not isinstance(kind, str) or "network" not in content:
        return None
    if kind != "classifier":
        raise UserError(f"{path}: a {kind} of this project; a backbone starts from the weights of a classifier")
    if not isinstance(content.get("input_format"), Mapping):
        raise UserError(f"{path}: a classifier without its input_format; write it anew")
    return InputFormat.from_dict(content["input_format"])


def _unwrap(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside what a training program saves along with it."""
    for _ in range(4):  # they nest, in a hostile file without end
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    return content


def _tensors(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            tensors[name] = torch.from_numpy(np.array(value.astype(value.dtype.newbyteorder("="), copy=False)))
        elif isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
    if not tensors:
        raise UserError(f"{path}: no tensors in it; its keys are {', '.join(map(str, list(content)[:20])) or 'none'}")
    return tensors
