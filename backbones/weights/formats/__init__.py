"""A file of weights in any format → tensors by torchvision's names, and the file's metadata.

Two properties are determined separately. The container is recognised by its first bytes: a torch file, safetensors, a
pickle, a Torch7 file. The naming is recognised by the names: torchvision's, Detectron's, detectron2's, or none in
Torch7's modules. There is one module for each container and each naming.
"""

from __future__ import annotations

import os
import re
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
from .own_file import is_own, read_own
from .prefixes import find_prefix, under_prefix

_TORCHVISION_ANCHORS = ("conv1.weight", "layer1.0.conv1.weight")  # two names that every such network has
_CONVOLUTION_OF_BLOCK = re.compile(r"layer\d+\.\d+\.conv(\d)\.weight")
_WRAPPERS = ("network", "state_dict", "model", "model_state_dict", "blobs")
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the pickled magic number of torch.save


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        state_dict: tensors by torchvision's names (untranslatable ones keep their names), unchanged: of any type, shape
            and size. `load_backbone_state` checks them.
        layout: their naming in the file: "torchvision", "detectron", "detectron2" or "torch7".
        frozen_norm_only: BN was fused into scale and bias, so it cannot be trained.
        input_format: the input format, if the file states it: the project's own files, and some of detectron2.
        left_out: first parts of the names of tensors that belong to other networks in the file (a detector's heads) or
            to the training.
    """

    state_dict: dict[str, Tensor]
    layout: str
    frozen_norm_only: bool = False
    input_format: InputFormat | None = None
    left_out: tuple[str, ...] = ()


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a file of weights without running any code in it.

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
        return Checkpoint(torch7_resnext.to_state_dict(content, path), "torch7")
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: it holds {type(content).__name__} instead of a state dict")
    if is_own(content):
        state, stated, left_out = read_own(content, path)
        return Checkpoint(state, "torchvision", False, stated, left_out)
    tensors = _tensors(_unwrap(content), path)

    input_format: InputFormat | None = None
    prefix = find_prefix(tensors, detectron2.ANCHORS, path)
    if detectron.is_named_so(tensors):
        layout = "detectron"
        state, left_out = detectron.rename(tensors)
    elif prefix is not None:
        layout = "detectron2"
        input_format = detectron2.stated_input(tensors, path)
        tensors, left_out = under_prefix(tensors, prefix)
        state = detectron2.rename(tensors)
        if prefix == "":
            state = {name: value for name, value in state.items() if not name.startswith("pixel_")}
    else:
        prefix = find_prefix(tensors, _TORCHVISION_ANCHORS, path)
        layout = "torchvision"
        state, left_out = (dict(tensors), ()) if prefix is None else under_prefix(tensors, prefix)
    _refuse_basic_blocks(state, path)
    fused = layout != "torchvision" and fused_norm.complete(state)
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


def _refuse_basic_blocks(state: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for a network whose blocks have two convolutions, of which some tensors may fit."""
    last = max((int(match[1]) for name in state if (match := _CONVOLUTION_OF_BLOCK.fullmatch(name))), default=3)
    if last == 2:
        raise UserError(
            f"{path}: a network of basic blocks, of two 3×3 convolutions each (ResNet-18 and -34, the ResNets of "
            "CIFAR). The networks here have bottleneck blocks of three convolutions: take a ResNet-50 or deeper, or a "
            "ResNeXt"
        )


def _unwrap(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict inside a training program's checkpoint."""
    for _ in range(4):  # they are nested, in a hostile file without end
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
        keys = ", ".join(str(key)[:100] for key in list(content)[:20])
        raise UserError(f"{path}: no tensors in it; its keys are {keys or 'none'}")
    return tensors
