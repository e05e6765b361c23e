"""The table of networks: a variant is a row of numbers, and a name refers to a row.

    find_variant("resnext50_32x4d", {})               → the row
    find_variant("resnext50", {"cardinality": 16})    → the row with one number replaced
    find_variant("resnext101_16x8d", {})              → a row by pattern: depth, C cardinality, d base width

Rows: the networks of Tables 1, 3, 4 and 7 of the paper (Xie et al., CVPR 2017), those of torchvision and Detectron, and
a small one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .common.errors import UserError
from .common.names import did_you_mean

EXPANSION = 4  # output channels of a block, in units of its planes
# Bounds that no network comes near; a mistyped name, or one in a stranger's file, cannot ask for endless memory.
MOST_BLOCKS, MOST_CHANNELS, MOST_GROUPED = 1_000, 4_096, 1 << 20
STEMS = {"imagenet": 4, "cifar": 1}  # name → stride of the stem's output


@dataclass(frozen=True)
class Variant:
    """The numbers that define a network.

    Attributes:
        depths: blocks of each stage; a block is three layers.
        cardinality: C, the paths of a block.
        base_width: d, the width of a path where the stage has 64 planes.
        planes: n of the first stage, doubled from stage to stage; a stage's map has 4n channels.
        stem_width: channels of the first convolution.
        stem: "imagenet" (7×7 stride 2, max-pool) or "cifar" (3×3 stride 1).
        in_channels: channels of the images.
        output_stride: stride of the last stage. None is the network's own (32; 4 with the CIFAR stem); a smaller one
            replaces strides by dilation.
        residual: False leaves every shortcut out (the paper's ablation).

    Raises:
        UserError: numbers that define no network.
    """

    depths: tuple[int, ...]
    cardinality: int = 1
    base_width: int = 64
    planes: int = 64
    stem_width: int = 64
    stem: str = "imagenet"
    in_channels: int = 3
    output_stride: int | None = None
    residual: bool = True

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "depths", tuple(self.depths))  # a list, as configurations write it
        except TypeError:
            raise UserError(f"depths is {self.depths!r}; it must be a list of whole numbers, one a stage") from None
        names = ("cardinality", "base_width", "planes", "stem_width", "in_channels")
        counts = {name: getattr(self, name) for name in names}
        counts.update((f"depths[{index}]", depth) for index, depth in enumerate(self.depths))
        for name, value in counts.items():
            most = MOST_BLOCKS if name.startswith("depths") else MOST_CHANNELS
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(f"{name} is {value!r:.50}; it must be a whole number from 1 to {most}")
        if not 1 <= len(self.depths) <= 4:
            raise UserError(f"depths is {self.depths}; it must name the blocks of 1 to 4 stages")
        if self.stem not in STEMS:
            raise UserError(f"stem is {self.stem!r}; it must be one of {', '.join(STEMS)}")
        if not isinstance(self.residual, bool):
            raise UserError(f"residual is {self.residual!r}; it must be true or false")
        if self.planes * self.base_width < 64:
            raise UserError(
                f"planes {self.planes} × base_width {self.base_width} / 64 is less than a channel a path; raise either"
            )
        if max(self.group_widths) > MOST_GROUPED:
            raise UserError(
                f"cardinality {self.cardinality}, base_width {self.base_width} and planes {self.planes} make 3×3 "
                f"convolutions of {max(self.group_widths)} channels, more than {MOST_GROUPED}; lower one of them"
            )
        natural = self._natural_strides()
        if self.output_stride is not None and self.output_stride not in natural:
            raise UserError(
                f"output_stride is {self.output_stride!r}; it must be one of {', '.join(map(str, natural))}"
            )

    def _natural_strides(self) -> list[int]:
        return [self.stem_stride * 2**stage for stage in range(len(self.depths))]

    @property
    def stem_stride(self) -> int:
        """Stride of the stem's map, and of the first stage's."""
        return STEMS[self.stem]

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the stages' maps: c2, c3, …"""
        return tuple(f"c{stage + 2}" for stage in range(len(self.depths)))

    @property
    def group_widths(self) -> tuple[int, ...]:
        """Channels of each stage's 3×3 convolutions: floor(planes · base_width / 64) · cardinality."""
        return tuple(
            self.planes * 2**stage * self.base_width // 64 * self.cardinality for stage in range(len(self.depths))
        )

    @property
    def channels(self) -> dict[str, int]:
        """Channels of the map at each level."""
        return {level: self.planes * 2**stage * EXPANSION for stage, level in enumerate(self.levels)}

    @property
    def strides(self) -> dict[str, int]:
        """Stride of the map at each level, in pixels of the image."""
        natural = self._natural_strides()
        largest = self.output_stride or natural[-1]
        return {level: min(stride, largest) for level, stride in zip(self.levels, natural, strict=True)}

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of each stage's 3×3 convolutions: its stride without `output_stride`, divided by its stride."""
        return tuple(
            natural // stride for natural, stride in zip(self._natural_strides(), self.strides.values(), strict=True)
        )


DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}

VARIANTS: dict[str, Variant] = {
    "resnet50": Variant(DEPTHS[50]),
    "resnet101": Variant(DEPTHS[101]),
    "resnet152": Variant(DEPTHS[152]),
    "resnet200": Variant(DEPTHS[200]),
    "resnet101_1x100d": Variant(DEPTHS[101], 1, 100),
    "resnext50_2x40d": Variant(DEPTHS[50], 2, 40),
    "resnext50_4x24d": Variant(DEPTHS[50], 4, 24),
    "resnext50_8x14d": Variant(DEPTHS[50], 8, 14),
    "resnext50_32x4d": Variant(DEPTHS[50], 32, 4),
    "resnext101_2x40d": Variant(DEPTHS[101], 2, 40),
    "resnext101_4x24d": Variant(DEPTHS[101], 4, 24),
    "resnext101_8x14d": Variant(DEPTHS[101], 8, 14),
    "resnext101_32x4d": Variant(DEPTHS[101], 32, 4),
    "resnext101_2x64d": Variant(DEPTHS[101], 2, 64),
    "resnext101_64x4d": Variant(DEPTHS[101], 64, 4),
    "resnext101_32x8d": Variant(DEPTHS[101], 32, 8),
    "resnext152_32x4d": Variant(DEPTHS[152], 32, 4),
    "resnext152_32x8d": Variant(DEPTHS[152], 32, 8),
    # Appendix A: three stages on maps of 32, 16 and 8
    "resnext29_8x64d": Variant((3, 3, 3), 8, 64, stem="cifar"),
    "resnext29_16x64d": Variant((3, 3, 3), 16, 64, stem="cifar"),
    # From scratch on small data: stages of 64, 128, 256 and 512 channels, 3×3 convolutions of 32 to 256 in 8 groups
    "resnext14_8x16d_small": Variant((1, 1, 1, 1), 8, 16, planes=16, stem_width=32),
    # About four times its parameters
    "resnext26_8x16d_small": Variant((2, 2, 2, 2), 8, 16, planes=24, stem_width=32),
}

# Names without numbers: they refer to the row whose numbers are the paper's standard.
_FAMILIES = {
    **{f"resnext{depth}": Variant(blocks, 32, 4) for depth, blocks in DEPTHS.items()},
    **{f"resnet{depth}": Variant(blocks) for depth, blocks in DEPTHS.items()},
    "resnext29": VARIANTS["resnext29_8x64d"],
}


def find_variant(name: str, structure: Mapping[str, Any]) -> Variant:
    """The row that `name` refers to, with the numbers in `structure` in place of its own.

    Args:
        name: a row of `VARIANTS`; a family such as "resnext50" or "resnext29"; or a family with numbers, such as
            "resnext101_16x8d".
        structure: any attributes of `Variant`.

    Raises:
        UserError: an unknown name or number (the nearest known one is named), or numbers that define no network.
    """
    row = VARIANTS.get(name)
    if (
        row is None
        and (match := re.fullmatch(r"(resnex?t\d{1,9})(?:_(\d{1,9})x(\d{1,9})d)?", name))
        and match[1] in _FAMILIES
    ):
        row = _FAMILIES[match[1]]
        if match[2]:
            row = dataclasses.replace(row, cardinality=int(match[2]), base_width=int(match[3]))
    if row is None:
        known = [*VARIANTS, *_FAMILIES]
        raise UserError(
            f"unknown network {name!r}{did_you_mean(name, known) or '.'} Known: {', '.join(sorted(set(known)))}, "
            "and any of these depths with numbers, as in resnext50_16x8d"
        )
    numbers = [f.name for f in dataclasses.fields(Variant)]
    for key in structure:
        if key not in numbers:
            hint = did_you_mean(key, numbers) or "."
            raise UserError(f"{name}: unknown number {key!r}{hint} Known: {', '.join(numbers)}")
    try:
        return dataclasses.replace(row, **structure)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def canonical_name(name: str, variant: Variant) -> str:
    """The table's name for a network ("resnext50" → "resnext50_32x4d"); `name` if the table has none.

    Input channels and output stride are ignored: the same weights fit any.
    """
    plain = dataclasses.replace(variant, in_channels=3, output_stride=None)
    return next((known for known, row in VARIANTS.items() if row == plain), name)
