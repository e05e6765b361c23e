"""Parameter names of detectron2's ResNet → torchvision's names.

stem.conv1.weight                conv1.weight
stem.conv1.norm.*                bn1.*
res2.0.conv1.weight, .norm.*     layer1.0.conv1.weight, layer1.0.bn1.*
res2.0.shortcut.weight, .norm.*  layer1.0.downsample.0.weight, .downsample.1.*
linear.*, stem.fc.*              fc.*

A whole detector's file may also state the input format: pixel_mean and pixel_std, (3,) or (3, 1, 1), in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...common.errors import UserError
from ...input_format import InputFormat

ANCHORS = ("stem.conv1.weight", "res2.0.conv1.weight")  # two names that every such network has

_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(?:conv([123])|shortcut)\.(norm\.)?(\w+)")
_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
_CLASSIFIER = re.compile(r"(?:linear|stem\.fc|fc)\.(\w+)")


def rename(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the network's parameters; other names are unchanged."""
    return {_renamed(name): parameter for name, parameter in parameters.items()}


def stated_input(parameters: Mapping[str, Any], path: Path) -> InputFormat | None:
    """The input format that a detector's file states in `pixel_mean` and `pixel_std`; None if it does not.

    The order of the channels is not in the file. detectron2 reads BGR by default; means that decrease from the first
    channel to the last, as ImageNet's do in RGB, show that it read RGB.

    Raises:
        UserError: they are not three numbers each.
    """
    found: dict[str, list[float]] = {}
    for name, value in parameters.items():
        key = name.rpartition(".")[2]
        if key not in ("pixel_mean", "pixel_std"):
            continue
        if (
            key in found
            or not isinstance(value, Tensor)
            or value.layout != torch.strided
            or value.is_quantized
            or value.is_meta
            or value.is_complex()
            or value.numel() != 3
        ):
            raise UserError(f"{path}: its {key} is no three numbers, or is there more than once")
        # The decimal number as originally written: 103.53 and not 103.52999877929688
        found[key] = [float(str(number)) for number in value.detach().float().flatten().numpy()]
    if not found:
        return None
    if len(found) < 2:
        raise UserError(f"{path}: it states {next(iter(found))} alone; pixel_mean and pixel_std belong together")
    mean, std = tuple(found["pixel_mean"]), tuple(found["pixel_std"])
    try:
        return InputFormat("rgb" if mean[0] > mean[1] > mean[2] else "bgr", 255.0, mean, std)
    except UserError as error:
        raise UserError(f"{path}: the input that its pixel_mean and pixel_std state makes no sense: {error}") from None


def _renamed(name: str) -> str:
    if match := _BLOCK.fullmatch(name):
        stage, block, number, normalization, parameter = match.groups()
        if number:
            layer = f"bn{number}" if normalization else f"conv{number}"
        else:
            layer = "downsample.1" if normalization else "downsample.0"
        return f"layer{int(stage) - 1}.{block}.{layer}.{parameter}"
    if match := _STEM.fullmatch(name):
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if match := _CLASSIFIER.fullmatch(name):
        return f"fc.{match[1]}"
    return name
