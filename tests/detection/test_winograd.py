"""Winograd's convolution against torch's in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detection import config as settings
from detection.recipe import for_inference, placed
from detection.winograd import WinogradConvolution
from tests.detection.networks import tiny_rpn

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(2, 8, 6), (2, 7, 5), (1, 6, 9), (3, 1, 4), (1, 1, 1), (0, 4, 4)])
def test_it_is_the_same_convolution(size: tuple[int, int, int], bias: bool, channels_last: bool) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 5, 3, padding=1, bias=bias).double()
    images, height, width = size
    maps = torch.randn(images, 6, height, width).double()
    if channels_last:
        maps = maps.to(memory_format=torch.channels_last)
    with torch.no_grad():
        found, expected = WinogradConvolution(convolution)(maps), convolution(maps)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rounding_at_the_width_of_the_paper() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1024, 64, 3, padding=1)
    maps = torch.randn(1, 1024, 10, 11)
    with torch.inference_mode():
        found, plain = WinogradConvolution(convolution)(maps), convolution(maps)
        exact = convolution.double()(maps.double())
    assert (found - exact).abs().max() < 4 * (plain - exact).abs().max()


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 3, padding=1, stride=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
)
def test_others_are_refused(other: nn.Conv2d) -> None:
    with pytest.raises(ValueError, match="not a dense 3×3"):
        WinogradConvolution(other)


def test_an_rpn_that_only_looks_has_it_and_one_that_learns_does_not() -> None:
    torch.manual_seed(0)
    network = placed(tiny_rpn(), settings.Runtime(), CPU).eval()
    looking = for_inference(network, settings.Runtime(), CPU)
    assert isinstance(looking.head.conv, WinogradConvolution)
    assert isinstance(network.head.conv, nn.Conv2d)
    maps = [torch.randn(2, network.head.conv.in_channels, 9, 12)]
    with torch.no_grad():
        answers = [*network.head(maps), *network.head.at(maps, torch.tensor([[5], [70]]))]
        for again in (looking, for_inference(looking, settings.Runtime(), CPU)):
            found = [*again.head(maps), *again.head.at(maps, torch.tensor([[5], [70]]))]
            for own, expected in zip(found, answers, strict=True):
                torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-5)
