"""Anchors: sizes, ratios, centres and order."""

from __future__ import annotations

import pytest
import torch

from detection.geometry.anchors import Anchors, cell_anchors, grid_anchors


def test_the_papers_twelve_anchors_have_their_areas_and_ratios() -> None:
    cell = cell_anchors([64, 128, 256, 512], [0.5, 1, 2])
    width, height = cell[:, 2] - cell[:, 0], cell[:, 3] - cell[:, 1]
    assert cell.shape == (12, 4)
    torch.testing.assert_close(width * height, torch.tensor([64.0, 128, 256, 512]).square().repeat_interleave(3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2]).repeat(4))
    torch.testing.assert_close(cell[:, :2], -cell[:, 2:])


def test_grid_centres_lie_in_the_middle_of_the_cells_in_row_major_order() -> None:
    anchors = grid_anchors(cell_anchors([32], [1.0]), height=2, width=3, stride=16)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]


def test_order_is_that_of_a_map_permuted_to_position_then_anchor() -> None:
    anchors = Anchors([[32, 64]], [1.0], [16])([torch.zeros(1, 8, 2, 2)]).view(2, 2, 2, 4)
    sides = anchors[..., 2] - anchors[..., 0]
    assert (sides[..., 0] == 32).all()
    assert (sides[..., 1] == 64).all()


def test_levels_follow_one_another() -> None:
    anchors = Anchors([[32], [64]], [0.5, 1, 2], [4, 8])
    both = anchors([torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 2, 3)])
    assert both.shape == (3 * (20 + 6), 4)
    assert both[3 * 20 :].sub(anchors([torch.zeros(1, 1, 0, 0), torch.zeros(1, 1, 2, 3)])).abs().max() == 0


def test_one_list_of_sizes_a_level_is_demanded() -> None:
    with pytest.raises(ValueError, match="one list a level"):
        Anchors([[32]], [1.0], [4, 8])
