"""The best anchor of each box, compared with the overlaps of all anchors."""

from __future__ import annotations

import pytest
import torch

from detection.geometry import boxes as box_ops
from detection.geometry.anchor_reach import best_anchor_iou
from detection.geometry.anchors import Anchors


@pytest.mark.parametrize("border", [None, 0.0, 5.0])
@pytest.mark.parametrize(
    ("strides", "sizes", "offset", "rounded"),
    [([16], [[20, 45, 90]], 0.5, False), ([8, 16, 32], [[16], [40], [100]], 0.0, True), ([16], [[400]], 0.5, False)],
)
def test_it_is_the_highest_overlap_of_all_anchors(
    strides: list[int], sizes: list[list[float]], offset: float, rounded: bool, border: float | None
) -> None:
    anchors = Anchors(sizes, [0.5, 1.0, 2.0], strides, offset=offset, rounded=rounded)
    height, width, divisor = 150, 203, 32
    corners = torch.rand(200, 2, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)
    padded = [-(-side // divisor) * divisor for side in (height, width)]
    everything = anchors([torch.zeros(1, 1, -(-padded[0] // stride), -(-padded[1] // stride)) for stride in strides])
    if border is not None:
        everything = everything[box_ops.inside(everything, torch.tensor([[height, width]]), border)[0]]
    wanted = box_ops.iou(boxes, everything).amax(dim=1) if len(everything) else torch.zeros(len(boxes))
    size = torch.tensor([[height, width]]).expand(len(boxes), 2)
    got = best_anchor_iou(boxes, size, anchors, allowed_border=border, divisor=divisor)
    torch.testing.assert_close(got.float(), wanted, atol=1e-5, rtol=0)
