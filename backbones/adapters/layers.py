"""A backbone → its layers in the order of application, as torchvision's and timm's feature extractors need them.

    images (N, C, H, W) ─ [input] ─ conv1 ─ bn1 ─ relu ─ maxpool ─ layer1 ─ … ─ layer4
                                             stem map,             c2           c5
                                             half the size

`input` (see `HostInput`) is present only where the host's format differs from the weights'. It has no parameters, so
parameters keep torchvision's names.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from torch import Tensor, nn

from ..input_format import InputFormat
from ..resnext import ResNeXtBackbone
from .host_input import HostInput, default_host_format

STEM = "relu"  # the layer whose output is the stem's map


def layers_in_order(backbone: ResNeXtBackbone, host_format: InputFormat | None = None) -> nn.Sequential:
    """The layers of `backbone`, shared with it, up to and including its last level.

    Args:
        backbone: any.
        host_format: the format of the host's images; see `default_host_format` for None.

    Raises:
        UserError: the host feeds another number of channels than the backbone takes.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    conversion = HostInput(host_format or default_host_format(backbone.input_format), backbone.input_format)
    if conversion.is_needed:
        layers["input"] = conversion
    layers["conv1"] = backbone.conv1
    layers["bn1"] = backbone.bn1
    layers[STEM] = nn.ReLU(inplace=True)
    if backbone.variant.stem == "imagenet":
        layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
    for level in backbone.levels:
        layers[layer_name(level)] = backbone.stage(level)
    return nn.Sequential(layers)


def layer_name(level: str) -> str:
    """The layer that gives a level's map: "c2" → "layer1"."""
    return f"layer{int(level[1:]) - 1}"


def apply_layers(owner: nn.Module, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """Applies the children of `owner` in turn; returns the outputs of those in `wanted`, by name."""
    maps = {}
    for name, layer in owner.named_children():
        images = layer(images)
        if name in wanted:
            maps[name] = images
    return maps
