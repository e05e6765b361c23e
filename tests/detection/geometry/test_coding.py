"""Box coding: the definition in a float64 loop, round trips, and limits."""

from __future__ import annotations

import math

import pytest
import torch

from detection.geometry.coding import BoxCoder
from tests.detection.geometry.test_boxes import random_boxes


def encode_slowly(
    box: list[float], reference: list[float], stds: tuple[float, ...], means: tuple[float, ...]
) -> list[float]:
    width, height = reference[2] - reference[0], reference[3] - reference[1]
    raw = [
        ((box[0] + box[2]) - (reference[0] + reference[2])) / 2 / width,
        ((box[1] + box[3]) - (reference[1] + reference[3])) / 2 / height,
        math.log((box[2] - box[0]) / width),
        math.log((box[3] - box[1]) / height),
    ]
    return [(value - mean) / std for value, mean, std in zip(raw, means, stds, strict=True)]


def test_encoding_follows_the_definition() -> None:
    stds, means = (0.1, 0.1, 0.2, 0.2), (0.01, -0.02, 0.03, 0.04)
    boxes, reference = random_boxes(40, seed=1).double(), random_boxes(40, seed=2).double()
    expected = [encode_slowly(a, b, stds, means) for a, b in zip(boxes.tolist(), reference.tolist(), strict=True)]
    torch.testing.assert_close(
        BoxCoder(stds, means).encode(boxes, reference), torch.tensor(expected, dtype=torch.float64)
    )


def test_decoding_undoes_encoding() -> None:
    coder = BoxCoder((0.1, 0.1, 0.2, 0.2), (0.1, 0.2, 0.3, 0.4))
    boxes, reference = random_boxes(3, 50, seed=3), random_boxes(3, 50, seed=4) + torch.tensor([0, 0, 5.0, 5.0])
    torch.testing.assert_close(coder.decode(coder.encode(boxes, reference), reference), boxes, atol=1e-3, rtol=1e-4)


def test_pixel_wide_boxes_and_points_encode_to_finite_numbers() -> None:
    boxes = torch.tensor([[3.0, 3.0, 4.0, 4.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 1333.0, 1.0]])
    for reference in boxes:
        assert BoxCoder().encode(boxes, reference.expand(3, 4)).isfinite().all()


def test_absurd_predictions_stay_finite() -> None:
    decoded = BoxCoder().decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert decoded.isfinite().all()
    assert torch.isclose(decoded[0, 2] - decoded[0, 0], torch.tensor(1000.0), rtol=1e-2)


def test_half_precision_predictions_are_decoded_in_float32() -> None:
    reference = torch.tensor([[900.0, 900.0, 1001.0, 1001.0]])
    assert BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), reference).tolist() == reference.tolist()


def test_useless_stds_are_refused() -> None:
    with pytest.raises(ValueError, match="positive stds"):
        BoxCoder((0.1, 0.1, 0.0, 0.2))
