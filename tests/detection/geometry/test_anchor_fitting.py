"""Anchors fitted to boxes: against a brute force, and the measure against the anchors of the RPN themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from detection.geometry.anchor_fitting import best_iou, fit_anchors
from detection.geometry.anchors import Anchors
from detection.geometry.boxes import iou


def boxes_of(sizes: list[float], ratios: list[float], count: int, side: float = 256, seed: int = 0) -> np.ndarray:
    """Boxes of about these sizes and ratios, well within a square."""
    random = np.random.default_rng(seed)
    size = random.choice(sizes, count) * np.exp(random.normal(0, 0.05, count))
    root = np.sqrt(random.choice(ratios, count))
    extent = np.stack([size / root, size * root], axis=1)
    centre = random.uniform(0.3 * side, 0.7 * side, (count, 2))
    return np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)


@pytest.mark.parametrize(
    ("sizes", "strides"), [([12, 40], [16]), ([10, 30, 70], [4, 8, 32]), ([9, 14, 30, 50], [4, 8])]
)
def test_the_measure_is_the_overlap_with_the_anchors_of_the_rpn(sizes: list[float], strides: list[int]) -> None:
    boxes, ratios = boxes_of([8, 30, 90], [0.4, 1, 2], 60), [0.5, 1.0, 2.0]
    per_level = len(sizes) // len(strides)
    grid = Anchors([sizes[i : i + per_level] for i in range(0, len(sizes), per_level)], ratios, strides)
    anchors = grid([torch.zeros(1, 1, 256 // stride, 256 // stride) for stride in strides])
    expected = iou(torch.from_numpy(boxes).float(), anchors).max(dim=1).values
    torch.testing.assert_close(
        torch.from_numpy(best_iou(boxes, sizes, ratios, strides)).float(), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("strides", [[4, 16], [8, 8]])
def test_no_pair_of_sizes_of_a_brute_force_is_better(strides: list[int]) -> None:
    boxes = boxes_of([20, 90], [1.0], 80)
    sizes, ratios = fit_anchors(boxes, strides)
    assert len(ratios) == 1
    tried = np.geomspace(10, 150, 40)
    best = max(float(best_iou(boxes, pair, ratios, strides).mean()) for pair in itertools.combinations(tried, 2))
    assert best_iou(boxes, sizes, ratios, strides).mean() > best - 0.01


def test_ratios_and_sizes_are_found_again() -> None:
    boxes = boxes_of([24, 48, 96], [0.5, 1.0, 2.0], 400)
    sizes, ratios = fit_anchors(boxes, [2], sizes_per_level=3)
    assert sizes == pytest.approx((24, 48, 96), rel=0.1)
    assert ratios == pytest.approx((0.5, 1.0, 2.0), rel=0.1)
    assert (best_iou(boxes, sizes, ratios, [2]) >= 0.7).mean() > 0.95
    assert fit_anchors(boxes, [2], sizes_per_level=3) == (sizes, ratios)


def test_small_boxes_are_reached_on_the_finest_level() -> None:
    """Sizes alone would put a size of 20 on a stride of 64, whose anchors lie up to 45 pixels from a box."""
    boxes = boxes_of([18, 20, 22], [1.0], 300)
    strides = [4, 8, 16, 32, 64]
    sizes, ratios = fit_anchors(boxes, strides)
    assert any(16 <= size <= 24 for size in sizes[:2])
    assert best_iou(boxes, sizes, ratios, strides).mean() > 0.75
    assert list(sizes) == sorted(sizes)


def test_one_box_and_none() -> None:
    box = np.array([[10.0, 10, 50, 30]])
    assert best_iou(box, *fit_anchors(box, [8]), [8]) > 0.6
    with pytest.raises(ValueError, match="at least one box"):
        fit_anchors(np.zeros((0, 4)), [8])
