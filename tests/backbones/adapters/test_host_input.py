"""What a host feeds must reach the network as the network's own normalisation would have made it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from backbones import IMAGENET, InputFormat, UserError
from backbones.adapters.host_input import ZERO_TO_ONE, HostInput, default_host_format, mean_and_std
from backbones.weights.sources import DETECTRON, DETECTRON2_RESNEXT, OPENMMLAB

FORMATS = [IMAGENET, ZERO_TO_ONE, OPENMMLAB, DETECTRON, DETECTRON2_RESNEXT]


def _normalized(pixels: Tensor, convention: InputFormat) -> Tensor:
    """By the definition, in float64: order, range, mean, deviation."""
    order = [2, 1, 0] if convention.channel_order == "bgr" else [0, 1, 2]
    values = pixels.double()[:, order] / 255.0 * convention.value_range
    mean, std = (torch.tensor(numbers).double()[:, None, None] for numbers in (convention.mean, convention.std))
    return (values - mean) / std


@pytest.mark.parametrize(("host", "network"), [*itertools.product(FORMATS, FORMATS)])
def test_every_host_to_every_network(host: InputFormat, network: InputFormat, pixels: Tensor) -> None:
    conversion = HostInput(host, network)
    got = conversion(_normalized(pixels, host).float())
    expected = _normalized(pixels, network)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5 * network.value_range / min(network.std))
    assert not conversion.state_dict()


@pytest.mark.parametrize(("host", "network"), [(IMAGENET, IMAGENET), (IMAGENET, OPENMMLAB), (DETECTRON, DETECTRON)])
def test_nothing_is_done_where_nothing_differs(host: InputFormat, network: InputFormat) -> None:
    conversion = HostInput(host, network)
    images = torch.randn(1, 3, 4, 4)
    assert not conversion.is_needed
    assert conversion(images) is images


def test_keeps_dtype_and_memory_format_and_trains_after_inference() -> None:
    own = InputFormat("bgr", 255.0, (90.0, 100.0, 110.0), (2.0, 4.0, 8.0))  # met first in inference mode, here
    conversion = HostInput(IMAGENET, own)
    images = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        conversion(images.float())
    converted = conversion(images)
    assert converted.dtype == torch.bfloat16
    assert converted.is_contiguous(memory_format=torch.channels_last)
    leaf = torch.randn(1, 3, 8, 8, requires_grad=True)
    conversion(leaf).sum().backward()
    # d(output)/d(input): the host's deviation over the network's
    expected = torch.tensor(IMAGENET.std) * 255.0 / torch.tensor(own.std[::-1])
    torch.testing.assert_close(leaf.grad[0, :, 0, 0], expected)


def test_default_host() -> None:
    grey = IMAGENET.for_channels(1)
    assert default_host_format(DETECTRON) == IMAGENET
    assert default_host_format(grey) == grey
    mean, std = mean_and_std(DETECTRON)
    assert mean == [value / 255 for value in DETECTRON.mean]
    assert std == [1 / 255] * 3


def test_other_channels_are_refused() -> None:
    with pytest.raises(UserError, match=r"feeds 3 channels, the network takes 1.*host_format"):
        HostInput(IMAGENET, IMAGENET.for_channels(1))
