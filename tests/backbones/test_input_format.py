"""Pixels → network input, in every convention of the sources of weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from backbones import IMAGENET, InputFormat
from backbones.common.errors import UserError

DETECTRON = InputFormat("bgr", 255.0, (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0))
DETECTRON2 = InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


@pytest.mark.parametrize("channels_last", [False, True])
def test_pixels_are_not_written_to(channels_last: bool) -> None:
    """Those that are float32 already, too."""
    pixels = torch.full((2, 3, 4, 5), 128.0)
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    IMAGENET.normalize(pixels)
    assert (pixels == 128).all()


@pytest.mark.parametrize("input_format", [IMAGENET, DETECTRON, DETECTRON2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalize_is_the_definition(input_format: InputFormat, channels_last: bool) -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if channels_last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    before = pixels.clone()
    got = input_format.normalize(pixels)

    rgb = pixels.numpy().astype(np.float64) / 255 * input_format.value_range
    channels = rgb if input_format.channel_order == "rgb" else rgb[:, ::-1]
    mean, std = (np.array(v)[:, None, None] for v in (input_format.mean, input_format.std))
    np.testing.assert_allclose(got.numpy(), (channels - mean) / std, rtol=1e-5, atol=1e-4 * input_format.std[0])
    assert got.dtype == torch.float32
    assert torch.equal(pixels, before)
    if channels_last:
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_survives_json() -> None:
    for input_format in (IMAGENET, DETECTRON2):
        assert InputFormat.from_dict(json.loads(json.dumps(input_format.to_dict()))) == input_format
    with pytest.raises(UserError, match="value_range"):
        InputFormat.from_dict({"channel_order": "rgb", "mean": [0], "std": [1]})


def test_other_channel_counts() -> None:
    assert IMAGENET.for_channels(3) is IMAGENET
    grey = DETECTRON2.for_channels(1)
    assert (grey.channel_order, len(grey.mean)) == ("rgb", 1)
    assert grey.mean[0] == pytest.approx((103.53 + 116.28 + 123.675) / 3)
    five = DETECTRON2.for_channels(5)
    assert five.channel_order == "rgb"  # the stem was turned to RGB when it was adapted
    assert five.mean == (123.675, 116.28, 103.53, 123.675, 116.28)
    assert five.normalize(torch.zeros(1, 5, 2, 2, dtype=torch.uint8)).shape == (1, 5, 2, 2)
    with pytest.raises(UserError, match="3 channels, the network expects 5"):
        five.normalize(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("gbr", 1.0, (0.0,) * 3, (1.0,) * 3), "'rgb' or 'bgr'"),
        (("rgb", 0.0, (0.0,) * 3, (1.0,) * 3), "value_range"),
        (("rgb", 1.0, (0.0,) * 3, (1.0,) * 2), "one number a channel"),
        (("rgb", 1.0, (0.0,) * 3, (1.0, 1.0, 0.0)), "above 0"),
        (("bgr", 1.0, (0.0,), (1.0,)), "three channels"),
        (("rgb", float("nan"), (0.0,) * 3, (1.0,) * 3), "value_range"),
        (("rgb", float("inf"), (0.0,) * 3, (1.0,) * 3), "value_range"),
        (("rgb", 1.0, (float("nan"), 0.0, 0.0), (1.0,) * 3), "NaN or infinite"),
        (("rgb", 1.0, (0.0, float("inf"), 0.0), (1.0,) * 3), "NaN or infinite"),
        (("rgb", 1.0, (0.0,) * 3, (1.0, float("nan"), 1.0)), "above 0 and finite"),
        (("rgb", 1.0, (0.0,) * 3, (1.0, 1e-300, 1.0)), "above 0 and finite"),
        (("rgb", 1.0, (0.0,) * 2000, (1.0,) * 2000), "at most 1024"),
        (("rgb", 1.0, (), ()), "one number a channel"),
    ],
)
def test_nonsense_is_refused(values: tuple[str, float, tuple[float, ...], tuple[float, ...]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputFormat(*values)
