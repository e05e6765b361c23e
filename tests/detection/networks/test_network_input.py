"""What the networks see: the weights' own convention inside the image, zero in the padding."""

from __future__ import annotations

import pytest
import torch

from backbones import IMAGENET, InputFormat
from detection.networks.network_input import prepare

DETECTRON = InputFormat("bgr", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("input_format", [IMAGENET, DETECTRON], ids=["torchvision", "detectron"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_are_normalised_and_padding_is_zero(input_format: InputFormat, channels_last: bool) -> None:
    images = torch.randint(0, 256, (2, 3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    sizes = torch.tensor([[6, 5], [4, 8]])
    given = images.clone()
    prepared = prepare(images, sizes, input_format)
    assert torch.equal(images, given)
    assert prepared.is_contiguous(memory_format=torch.channels_last) == channels_last
    order = (2, 1, 0) if input_format.channel_order == "bgr" else (0, 1, 2)
    for image, (height, width) in enumerate(sizes.tolist()):
        for channel in range(3):
            pixels = images[image, order[channel]].double() / 255 * input_format.value_range
            expected = (pixels - input_format.mean[channel]) / input_format.std[channel]
            expected[height:], expected[:, width:] = 0, 0
            torch.testing.assert_close(prepared[image, channel].double(), expected, atol=1e-4, rtol=1e-5)
