"""Anchors that fit boxes."""

from __future__ import annotations

import numpy as np
import torch

from detection.data.anchor_fitting import fit_anchors, shape_iou
from detection.geometry import boxes as box_ops
from detection.geometry.anchors import cell_anchors


def test_iou_is_that_of_the_network_s_anchors() -> None:
    sides, sizes, ratios = np.random.default_rng(0).uniform(5, 90, (50, 2)), np.array([20, 60.0]), np.array([0.5, 1, 3])
    boxes = torch.tensor(np.concatenate([-sides / 2, sides / 2], axis=1)).float()
    wanted = box_ops.iou(boxes, cell_anchors(sizes.tolist(), ratios.tolist()))
    np.testing.assert_allclose(shape_iou(sides, sizes, ratios).reshape(50, -1), wanted, atol=1e-5)


def test_anchors_that_boxes_were_drawn_from_are_found() -> None:
    random = np.random.default_rng(0)
    size = random.choice([12.0, 40.0, 150.0], 3000) * np.exp(random.normal(0, 0.05, 3000))
    ratio = random.choice([0.4, 1.6], 3000) * np.exp(random.normal(0, 0.05, 3000))
    sides = np.stack([size / np.sqrt(ratio), size * np.sqrt(ratio)], axis=1)
    sizes, ratios = fit_anchors(sides, 3, 2)
    np.testing.assert_allclose(sizes, [12, 40, 150], rtol=0.03)
    np.testing.assert_allclose(ratios, [0.4, 1.6], rtol=0.03)


def test_fewer_boxes_than_anchors() -> None:
    assert fit_anchors(np.array([[30.0, 60.0]]), 3, 2) == ([42.4] * 3, [2.0] * 2)
