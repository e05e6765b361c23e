"""Box overlaps against torchvision and by hand."""

from __future__ import annotations

import pytest
import torch
import torchvision

from detection.geometry import boxes as box_ops


def random_boxes(*shape: int, seed: int = 0, extent: float = 100.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((*shape, 2, 2), generator=generator) * extent
    return torch.cat([corners.amin(dim=-2), corners.amax(dim=-2)], dim=-1)


def test_iou_equals_torchvision_for_each_image_of_a_batch() -> None:
    first, second = random_boxes(3, 7, seed=1), random_boxes(3, 50, seed=2)
    expected = torch.stack([torchvision.ops.box_iou(a, b) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(box_ops.iou(first, second), expected)


def test_iou_broadcasts_one_set_of_anchors_over_the_images() -> None:
    first, anchors = random_boxes(2, 5, seed=1), random_boxes(30, seed=2)
    torch.testing.assert_close(box_ops.iou(first, anchors)[1], torchvision.ops.box_iou(first[1], anchors))


def test_boxes_without_area_overlap_nothing_and_give_no_nan() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert box_ops.iou(point, point).item() == 0
    assert box_ops.covered_share(point, torch.tensor([[0.0, 0.0, 9.0, 9.0]])).item() == 0


def test_covered_share_is_the_part_of_the_box_not_of_the_region() -> None:
    region = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    boxes = torch.tensor([[10.0, 10.0, 20.0, 20.0], [95.0, 0.0, 105.0, 10.0]])
    torch.testing.assert_close(box_ops.covered_share(boxes, region), torch.tensor([[1.0, 0.5]]))


def test_clip_uses_each_images_own_size() -> None:
    boxes = torch.tensor([[[-5.0, -5.0, 500.0, 500.0]], [[-5.0, 3.0, 20.0, 500.0]]])
    clipped = box_ops.clip(boxes, torch.tensor([[30, 40], [60, 50]]))
    assert clipped.tolist() == [[[0, 0, 40, 30]], [[0, 3, 20, 60]]]


@pytest.mark.parametrize(("border", "expected"), [(0.0, [True, False, False]), (2.0, [True, True, False])])
def test_inside_counts_the_allowed_border(border: float, expected: list[bool]) -> None:
    boxes = torch.tensor([[0.0, 0.0, 40.0, 30.0], [-1.0, 0.0, 41.0, 32.0], [-3.0, 0.0, 9.0, 9.0]])
    assert box_ops.inside(boxes, torch.tensor([[30, 40]]), border).tolist() == [expected]


def test_clipping_needs_no_valid_box() -> None:
    assert box_ops.clip(torch.zeros(2, 0, 4), torch.tensor([[3, 4], [5, 6]])).shape == (2, 0, 4)
