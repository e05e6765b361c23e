"""ResNeXt: images → feature maps, and images → class scores. ResNet is cardinality 1.

    images (N, 3, H, W) ─ stem ─ layer1 ─ c2 (N, 256, H/4, W/4)
                                 layer2 ─ c3 (N, 512, H/8, W/8)
                                 layer3 ─ c4 (N, 1024, H/16, W/16)
                                 layer4 ─ c5 (N, 2048, H/32, W/32) ─ mean over H, W ─ fc ─ logits (N, classes)

Sizes of the standard networks; `Variant` gives every network's channels and strides. Odd sizes are rounded up.
Parameter names are torchvision's, and the 3×3 convolution has the stride. Source: Xie et al., CVPR 2017, section 3 and
Table 1; initialisation as in their Lua code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Bottleneck
from .cifar import CIFAR, cifar_stem
from .common.errors import UserError
from .initial_weights import fill_normal
from .input_format import IMAGENET, InputFormat
from .normalization import conv_norm, freeze_batch_norm, make_normalization
from .variants import VARIANTS, Variant, find_variant

__all__ = ["VARIANTS", "ResNeXt", "ResNeXtBackbone", "Stage", "Trunk", "Variant", "find_variant"]


class Stage(nn.Sequential):
    """The blocks of one stage: (N, in_channels, H, W) → (N, out_channels, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, variant: Variant, index: int, *, norm: str) -> None:
        super().__init__()
        strides = (variant.stem_stride, *variant.strides.values())
        dilations = (1, *variant.dilations)
        self.in_channels = variant.stem_width if index == 0 else variant.channels[variant.levels[index - 1]]
        self.out_channels = variant.channels[variant.levels[index]]
        self.stride = strides[index + 1] // strides[index]
        for block in range(variant.depths[index]):
            first = block == 0
            self.append(
                Bottleneck(
                    self.in_channels if first else self.out_channels,
                    variant.planes * 2**index,
                    variant.group_widths[index],
                    variant.cardinality,
                    stride=self.stride if first else 1,
                    # The block whose stride is replaced by dilation keeps the previous stage's dilation
                    dilation=dilations[index if first else index + 1],
                    norm=norm,
                    residual=variant.residual,
                )
            )


class Trunk(nn.Module):
    """Stem and stages: the common base class of a classifier and a backbone.

    Args:
        variant: the numbers.
        norm: "batch", "sync_batch", "frozen" or "group"; see `make_normalization`.
        last_level: the last stage to be built ("c4"); None builds all.

    Attributes:
        levels: the stages that are built.
        input_format: the format of `forward`'s input: ImageNet's or CIFAR's, until weights with another one are loaded.
        provenance: the network and the source of its weights, as plain values.
    """

    def __init__(self, variant: Variant, *, norm: str = "batch", last_level: str | None = None) -> None:
        super().__init__()
        self.variant = variant
        self.norm = norm
        self.levels = variant.levels[: variant.levels.index(last_level or variant.levels[-1]) + 1]
        self.input_format: InputFormat = (CIFAR if variant.stem == "cifar" else IMAGENET).for_channels(
            variant.in_channels
        )
        self.provenance: dict[str, Any] = {}
        if variant.stem == "cifar":
            self.conv1 = cifar_stem(variant.in_channels, variant.stem_width)
        else:
            self.conv1 = nn.Conv2d(variant.in_channels, variant.stem_width, 7, 2, 3, bias=False)
        self.bn1 = make_normalization(norm, variant.stem_width)
        for index in range(len(self.levels)):
            self.add_module(f"layer{index + 1}", Stage(variant, index, norm=norm))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fill_normal(module.weight, math.sqrt(2.0 / (math.prod(module.kernel_size) * module.out_channels)))

    def stage(self, level: str) -> Stage:
        """The stage whose output is the map of `level`."""
        return getattr(self, f"layer{self.levels.index(level) + 1}")

    def feature_maps(self, images: Tensor, levels: Sequence[str]) -> dict[str, Tensor]:
        """Normalised images (N, in_channels, H, W) → the maps of `levels`, finest first. No other map is stored."""
        x = F.relu(conv_norm(self.conv1, self.bn1, images), inplace=True)
        if self.variant.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, 1)
        maps = {}
        for level in self.levels:
            x = self.stage(level)(x)
            if level in levels:
                maps[level] = x
        return maps

    def freeze(self, last: str) -> None:
        """Freezes the stem and the stages up to and including `last` ("stem", "c2", …): they get no gradients, and
        their BN becomes frozen BN.

        Raises:
            UserError: the network has no such stage.
        """
        if last not in ("stem", *self.levels):
            raise UserError(f"cannot freeze up to {last!r}; this network has stem, {', '.join(self.levels)}")
        self.bn1 = freeze_batch_norm(self.bn1)
        frozen: list[nn.Module] = [self.conv1, self.bn1]
        if last != "stem":
            frozen += [freeze_batch_norm(self.stage(level)) for level in self.levels[: self.levels.index(last) + 1]]
        for module in frozen:
            module.requires_grad_(False)


class ResNeXtBackbone(Trunk):
    """Images → maps by level. Stages beyond the last output are not built.

    Args:
        variant, norm: see `Trunk`.
        outputs: the levels that `forward` returns.

    Attributes:
        channels, strides: of each output.

    Raises:
        UserError: outputs that the variant does not have, or none.
    """

    def __init__(self, variant: Variant, outputs: Sequence[str], *, norm: str = "batch") -> None:
        unknown = [level for level in outputs if level not in variant.levels]
        if unknown or not outputs:
            raise UserError(f"outputs are {list(outputs)}; name at least one of {', '.join(variant.levels)}")
        super().__init__(variant, norm=norm, last_level=max(outputs))
        self._select(outputs)

    def _select(self, outputs: Sequence[str]) -> None:
        self.outputs = tuple(level for level in self.levels if level in outputs)
        self.channels = {level: self.variant.channels[level] for level in self.outputs}
        self.strides = {level: self.variant.strides[level] for level in self.outputs}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, in_channels, H, W), normalised by `input_format` → {level: (N, channels[level], ceil(H /
        strides[level]), …)}, finest first."""
        return self.feature_maps(images, self.outputs)

    def split_off_last_stage(self) -> Stage:
        """Removes the last stage and returns it; this backbone then ends one level earlier and returns only that level
        (see `create_c4`)."""
        stage = self.stage(self.levels[-1])
        delattr(self, f"layer{len(self.levels)}")
        self.levels = self.levels[:-1]
        self._select(self.levels[-1:])
        return stage


class ResNeXt(Trunk):
    """The classification network: images → logits.

    Args:
        variant, norm: see `Trunk`.
        num_classes: K.
    """

    def __init__(self, variant: Variant, num_classes: int = 1000, *, norm: str = "batch") -> None:
        super().__init__(variant, norm=norm)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise UserError(f"num_classes is {num_classes!r}; it must be a whole number above 0")
        self.num_classes = num_classes
        self.fc = nn.Linear(variant.channels[variant.levels[-1]], num_classes)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W), normalised by `input_format` → logits (N, K)."""
        last = self.levels[-1]
        return self.fc(self.feature_maps(images, [last])[last].mean((2, 3)))
