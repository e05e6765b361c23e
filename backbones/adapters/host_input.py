"""Images as a host normalises them → images as the backbone's weights expect them.

    images (N, C, H, W), normalised by the host → the same pixels, normalised for the weights

Hosts normalise images themselves, most of them by ImageNet's mean and standard deviation in RGB, for any weights. Where
the two formats differ (Detectron's weights take BGR of 0–255), the conversion is one flip of the channels and one
multiply-add per value. It is done here, so that no setting of the host has to be changed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..constants import constant
from ..input_format import IMAGENET, InputFormat

ZERO_TO_ONE = InputFormat("rgb", 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""The format of a host that only scales pixels to 0–1, as RT-DETR's image processor does."""

_NEGLIGIBLE = 1e-6  # differences below this are rounding of float32


class HostInput(nn.Module):
    """Converts images from a host's format into the network's.

    It has neither parameters nor buffers, so it does not change state dicts.

    Args:
        host: the format of the host's images.
        network: the format that the network expects.

    Attributes:
        is_needed: False where the two are the same.

    Raises:
        UserError: the two differ in the number of channels.
    """

    def __init__(self, host: InputFormat, network: InputFormat) -> None:
        super().__init__()
        if len(host.mean) != len(network.mean):
            raise UserError(
                f"the host feeds {len(host.mean)} channels, the network takes {len(network.mean)}; name what the host "
                "feeds in host_format=InputFormat(…)"
            )
        self.flips = host.channel_order != network.channel_order
        # host value h = (v · R_h - m_h) / s_h and network value (v · R - m) / s of a pixel v in 0–1, so v goes out
        scale, shift = [], []
        direction = -1 if self.flips else 1
        for host_mean, host_std, mean, std in zip(
            host.mean[::direction], host.std[::direction], network.mean, network.std, strict=True
        ):
            ratio = network.value_range / host.value_range
            scale.append(host_std * ratio / std)
            shift.append((host_mean * ratio - mean) / std)
        same = all(abs(value - 1.0) < _NEGLIGIBLE for value in scale) and all(
            abs(value) < _NEGLIGIBLE for value in shift
        )
        self.scale_and_shift = None if same else (tuple(scale), tuple(shift))
        self.is_needed = self.flips or not same

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W), the same tensor where nothing differs."""
        if self.flips:
            images = images.flip(1)
        if self.scale_and_shift is not None:
            # Not buffers: a host that builds networks on the meta device would leave these empty.
            scale, shift = (constant(values, images.device, images.dtype) for values in self.scale_and_shift)
            images = torch.addcmul(shift[:, None, None], images, scale[:, None, None])
        return images

    def extra_repr(self) -> str:
        return f"flips={self.flips}, scale_and_shift={self.scale_and_shift}"


def default_host_format(network: InputFormat) -> InputFormat:
    """The format that is assumed of a host: ImageNet's mean and standard deviation for RGB. For other channels there is
    no common format, so it is the network's own."""
    return IMAGENET if len(network.mean) == len(IMAGENET.mean) else network


def mean_and_std(host: InputFormat) -> tuple[list[float], list[float]]:
    """The format as (image_mean, image_std) for pixels of 0–1."""
    return [value / host.value_range for value in host.mean], [value / host.value_range for value in host.std]
