"""The format of a network's input. It is stored with the weights and never assumed.

N images, H × W pixels: (N, 3, H, W) uint8 RGB → (N, 3, H, W) float32 in the network's channel order, range, mean and
standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .common.errors import UserError
from .constants import constant


class WrongInputFormat(UserError, ValueError):
    """Invalid values of an input format. A caller that reads them from a file names the file."""


MOST_CHANNELS = 1024
LARGEST = 1e9  # of a mean, a standard deviation or a value range


@dataclass(frozen=True)
class InputFormat:
    """The input format of one set of weights.

    Attributes:
        channel_order: "rgb" or "bgr".
        value_range: the value of white before mean and standard deviation are applied: 1.0 or 255.0.
        mean: one number per channel, in `channel_order` and in units of `value_range`.
        std: the same for the divisor.
    """

    channel_order: str
    value_range: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.channel_order not in ("rgb", "bgr"):
            raise WrongInputFormat(
                f"input format: channel_order is {self.channel_order!r:.50}; it must be 'rgb' or 'bgr'"
            )
        if not 0 < self.value_range <= LARGEST:
            raise WrongInputFormat(
                f"input format: value_range is {self.value_range}; it must be above 0 (1.0 or 255.0)"
            )
        if not 1 <= len(self.mean) <= MOST_CHANNELS or len(self.mean) != len(self.std):
            raise WrongInputFormat(
                f"input format: {len(self.mean)} means and {len(self.std)} stds; both need one number a channel, of at "
                f"most {MOST_CHANNELS}"
            )
        if not all(abs(center) <= LARGEST for center in self.mean):  # not so for NaN
            raise WrongInputFormat(
                f"input format: mean {str(self.mean)[:100]} needs one number a channel, none of them NaN or infinite"
            )
        if not all(1 / LARGEST <= deviation <= LARGEST for deviation in self.std):
            raise WrongInputFormat(
                f"input format: std {str(self.std)[:100]} needs one number a channel, above 0 and finite"
            )
        if self.channel_order == "bgr" and len(self.mean) != 3:
            raise WrongInputFormat("input format: channel_order 'bgr' means three channels")

    def normalize(self, images: Tensor) -> Tensor:
        """Decoded pixels → the network's input.

        Args:
            images: (N, C, H, W) uint8, 0–255, three channels in RGB order. Padding is normalised like pixels: the
                caller overwrites it afterwards.

        Returns:
            (N, C, H, W) float32, a new tensor in the memory format of `images`.
        """
        if images.shape[-3] != len(self.mean):
            raise UserError(f"images have {images.shape[-3]} channels, the network expects {len(self.mean)}")
        scale, shift = (constant(values, images.device) for values in self._scale_and_shift())
        if self.channel_order == "bgr":
            images = images.flip(-3)  # while values are single bytes
        if images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last):
            # As rows of W · C numbers, which is faster than three channels at a time.
            width = images.shape[-1]
            rows = images.permute(0, 2, 3, 1).flatten(2).to(torch.float32, copy=True)
            rows.mul_(scale.repeat(width)).add_(shift.repeat(width))
            return rows.unflatten(2, (width, -1)).permute(0, 3, 1, 2)
        return torch.addcmul(shift[:, None, None], images, scale[:, None, None])

    def _scale_and_shift(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """((x / 255) · range - mean) / std as x · scale + shift."""
        scale = tuple(self.value_range / 255.0 / deviation for deviation in self.std)
        return scale, tuple(-center / deviation for center, deviation in zip(self.mean, self.std, strict=True))

    def for_channels(self, channels: int) -> InputFormat:
        """The format for a network whose stem was adapted to `channels` inputs (see `loading.adapt_stem`): the RGB
        numbers repeated, or their average for a single channel."""
        if channels == len(self.mean):
            return self
        mean, std = (self.mean, self.std) if self.channel_order == "rgb" else (self.mean[::-1], self.std[::-1])
        if channels == 1:
            return InputFormat("rgb", self.value_range, (sum(mean) / len(mean),), (sum(std) / len(std),))
        repeats = -(-channels // len(mean))
        return InputFormat("rgb", self.value_range, (mean * repeats)[:channels], (std * repeats)[:channels])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputFormat:
        """The inverse of `to_dict`.

        Raises:
            WrongInputFormat: a key is missing or unknown, or a value is of the wrong kind.
        """
        expected = {"channel_order", "value_range", "mean", "std"}
        if not isinstance(values, Mapping) or set(values) != expected:
            found = f"got {sorted(map(str, values))[:10]}" if isinstance(values, Mapping) else "got none"
            raise WrongInputFormat(f"input format: needs exactly the keys {sorted(expected)}, {found}")
        return cls(
            str(_of_kind("channel_order", values["channel_order"], str)),
            float(_of_kind("value_range", values["value_range"], (int, float))),
            _numbers("mean", values["mean"]),
            _numbers("std", values["std"]),
        )


def _numbers(key: str, values: Any) -> tuple[float, ...]:
    _of_kind(key, values, (list, tuple))
    if len(values) > MOST_CHANNELS:
        raise WrongInputFormat(f"input format: {key} has {len(values)} numbers, at most {MOST_CHANNELS} are possible")
    return tuple(float(_of_kind(key, value, (int, float))) for value in values)


def _of_kind(key: str, value: Any, kind: type | tuple[type, ...]) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind) or (isinstance(value, int) and abs(value) > LARGEST):
        raise WrongInputFormat(f"input format: {key} is of the wrong kind, or out of any range")
    return value


IMAGENET = InputFormat("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The format in which torchvision, timm and the paper's own code train on ImageNet."""
