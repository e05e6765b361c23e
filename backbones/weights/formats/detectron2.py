"""Parameter names of detectron2's ResNet → torchvision's names.

stem.conv1.weight                conv1.weight
stem.conv1.norm.*                bn1.*
res2.0.conv1.weight, .norm.*     layer1.0.conv1.weight, layer1.0.bn1.*
res2.0.shortcut.weight, .norm.*  layer1.0.downsample.0.weight, .downsample.1.*
linear.*, stem.fc.*              fc.*
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ANCHORS = ("stem.conv1.weight", "res2.0.conv1.weight")  # two names that every such network has

_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(?:conv([123])|shortcut)\.(norm\.)?(\w+)")
_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
_CLASSIFIER = re.compile(r"(?:linear|stem\.fc|fc)\.(\w+)")


def rename(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Renames what belongs to the network; any other name stays as it is."""
    return {_renamed(name): parameter for name, parameter in parameters.items()}


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
