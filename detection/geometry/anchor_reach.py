"""Boxes and anchors → the highest IoU that any anchor has with each box, without laying out all anchors.

Among the anchors of one shape, the overlap with a box is a product of an overlap along x and one along y. Each grows as
the centres come closer, so the best anchor is the one at the nearest allowed place along each axis.

Shapes: T boxes; each on an image of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detection.geometry.anchors import Anchors


def best_anchor_iou(
    boxes: Tensor, sizes: Tensor, anchors: Anchors, *, allowed_border: float | None = None, divisor: int = 1
) -> Tensor:
    """The highest IoU of an anchor with each box, (T,) float64 in 0–1; 0 where no anchor takes part.

    Args:
        boxes: (T, 4) in pixels of the network's input. sizes: (T, 2), height and width of each box's image there.
        allowed_border: as the RPN's: anchors that reach over the image's edge by more do not take part; None: all do.
        divisor: images are padded to multiples of this, and the padding has anchors, too.

    Example: one anchor shape of 64 × 64 at a stride of 16 and a box of 64 × 64 in the middle between two cells:
    the nearest anchor is 8 pixels away, and the IoU is 56 / 72 = 0.78.
    """
    boxes, sizes = boxes.double(), sizes.double()
    best = boxes.new_zeros(len(boxes))
    for level, stride in enumerate(anchors.strides):
        cells = ((sizes / divisor).ceil() * divisor / stride).ceil()  # (T, 2) rows and columns
        for x0, y0, x1, y1 in getattr(anchors, f"cell{level}").double().tolist():
            across, wide = _along(boxes[:, 0::2], x0, x1, sizes[:, 1], cells[:, 1], anchors, stride, allowed_border)
            up, high = _along(boxes[:, 1::2], y0, y1, sizes[:, 0], cells[:, 0], anchors, stride, allowed_border)
            common = across * up
            area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (x1 - x0) * (y1 - y0)
            best = torch.maximum(best, torch.where(wide & high, common / (area - common), 0.0))
    return best


def _along(
    ends: Tensor,
    low: float,
    high: float,
    length: Tensor,
    cells: Tensor,
    anchors: Anchors,
    stride: int,
    border: float | None,
) -> tuple[Tensor, Tensor]:
    """Along one axis: (the largest overlap of a box's ends (T, 2) with an anchor from `low` to `high` about the centre
    of its cell, (T,); whether there is an allowed place, bool (T,))."""
    shift = anchors.offset * stride
    first, last = torch.zeros_like(cells), cells - 1
    if border is not None:
        first = first.clamp(min=math.ceil((-border - low - shift) / stride))
        last = torch.minimum(last, ((length + border - high - shift) / stride).floor())
    wanted = (ends.sum(dim=1) / 2 - (low + high) / 2 - shift) / stride
    place = torch.minimum(torch.maximum(wanted.round(), first), last) * stride + shift
    overlap = torch.minimum(ends[:, 1], place + high) - torch.maximum(ends[:, 0], place + low)
    return overlap.clamp(min=0), last >= first
