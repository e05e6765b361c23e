"""A network → its parameters and multiply-adds by part; a cardinality → the width that keeps a block's cost.

    measure(network, (224, 224))              → Complexity: a row for stem, c2 … c5, fc
    solve_width(32, bottleneck_parameters(1, 64)) → 4      Table 2: the d that keeps a block's cost when C changes

Multiply-adds are the paper's FLOPs: those of convolutions and fully connected layers for one image. Nothing else is
counted: BN can be folded into the convolutions, and ReLU and pooling have no multiplications.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .common.errors import UserError
from .normalization import BATCH_NORM
from .resnext import ResNeXt
from .variants import Variant

_PARTS = {"conv1": "stem", "bn1": "stem", "layer1": "c2", "layer2": "c3", "layer3": "c4", "layer4": "c5"}


@dataclass(frozen=True)
class Part:
    """One part of a network.

    Attributes:
        name: "stem", "c2" … "c5", "fc"; for other networks the name of the child module.
        output_size: (H, W) of its output map; () if the output is not a map.
        parameters: all of them. Frozen BN has none.
        norm_parameters: those of normalisation layers among them.
        multiply_adds: for one image.
    """

    name: str
    output_size: tuple[int, ...]
    parameters: int
    norm_parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Complexity:
    """A network's parts, in the order of execution."""

    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def weights(self) -> int:
        """Parameters without those of normalisation, as counted in the paper's tables (25.5 M for ResNet-50)."""
        return sum(part.parameters - part.norm_parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """For one image: the paper's FLOPs."""
        return sum(part.multiply_adds for part in self.parts)


def measure(network: nn.Module, size: tuple[int, int], in_channels: int = 3) -> Complexity:
    """Counts by running the network on torch's meta device, without values: fast, and exact at any size.

    Args:
        network: a module of convolutions and fully connected layers that takes (1, in_channels, H, W); not modified.
        size: (H, W) of the image in pixels.

    Raises:
        UserError: the image is too small for the network.
    """
    shadow = copy.deepcopy(network).to("meta").eval()
    output_sizes: dict[str, tuple[int, ...]] = {}

    def remember_size_of(name: str) -> Any:
        def hook(_module: nn.Module, _input: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                output_sizes[name] = tuple(output.shape[2:])

        return hook

    for name, module in shadow.named_modules():
        module.register_forward_hook(remember_size_of(name))
    try:
        with torch.no_grad():
            shadow(torch.empty(1, in_channels, *size, device="meta"))
    except RuntimeError as error:
        raise UserError(f"this network cannot take an image of {size[0]}×{size[1]} pixels: {error}") from None

    parts: dict[str, Part] = {}
    for name, module in shadow.named_modules():
        top = name.split(".")[0]
        part_name = _PARTS.get(top, top)
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        normalizes = isinstance(module, (*BATCH_NORM, nn.GroupNorm))
        multiply_adds = 0
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name in output_sizes:
            multiply_adds = module.weight.numel() * math.prod(output_sizes[name])  # a weight is used once per position
        before = parts.get(part_name, Part(part_name, output_sizes.get(top, ()), 0, 0, 0))
        parts[part_name] = Part(
            part_name,
            before.output_size,
            before.parameters + own,
            before.norm_parameters + own * normalizes,
            before.multiply_adds + multiply_adds,
        )
    return Complexity(tuple(part for part in parts.values() if part.parameters or part.multiply_adds))


def measure_variant(variant: Variant, size: tuple[int, int], num_classes: int) -> Complexity:
    """The cost of a variant's classification network, computed without allocating its weights."""
    with torch.device("meta"):
        network = ResNeXt(variant, num_classes)
    return measure(network, size, variant.in_channels)


def bottleneck_parameters(cardinality: int, width: int, channels: int = 256) -> int:
    """Weights of one block, C · (256 · d + 3 · 3 · d · d + d · 256): Eq. 4 of the paper, for the blocks of stage c2.

    >>> bottleneck_parameters(1, 64), bottleneck_parameters(32, 4)
    (69632, 70144)
    """
    return cardinality * (channels * width + 9 * width * width + width * channels)


def solve_width(cardinality: int, parameters: int, channels: int = 256) -> int:
    """The width d whose block of this cardinality comes closest to `parameters` weights (Table 2).

    Raises:
        UserError: even paths of one channel each cost more.

    >>> [solve_width(cardinality, bottleneck_parameters(1, 64)) for cardinality in (1, 2, 4, 8, 32)]
    [64, 40, 24, 14, 4]
    """
    # The positive root of 9 d² + 2 · channels · d = parameters / C
    root = (math.sqrt(channels**2 + 9 * parameters / cardinality) - channels) / 9
    if root < 0.5:
        raise UserError(
            f"cardinality {cardinality} is too high: even paths of width 1 cost "
            f"{bottleneck_parameters(cardinality, 1, channels):,} weights, more than the {parameters:,} to be kept"
        )
    candidates = {max(1, math.floor(root)), math.ceil(root)}
    return min(candidates, key=lambda width: abs(bottleneck_parameters(cardinality, width, channels) - parameters))
