"""Boxes → areas, overlaps, clipped boxes.

Shapes: `...` stands for any leading dimensions (usually N images); B and G count boxes. Everything is elementwise or
broadcast, so that one call handles a batch.
"""

from __future__ import annotations

from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Area of boxes (..., 4) in square pixels, (...); a box with x1 < x0 or y1 < y0 has area 0.

    >>> area(torch.tensor([0.0, 0.0, 2.0, 3.0]))
    tensor(6.)
    """
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Overlapping area of each of (..., G, 4) with each of (..., B, 4): (..., G, B) square pixels.

    B should be the larger set: it is the innermost, contiguous dimension.
    """
    x0, y0, x1, y1 = (side.unsqueeze(-1) for side in first.unbind(-1))
    other_x0, other_y0, other_x1, other_y1 = (side.unsqueeze(-2) for side in second.unbind(-1))
    width = (x1.minimum(other_x1) - x0.maximum(other_x0)).clamp_(min=0)
    height = (y1.minimum(other_y1) - y0.maximum(other_y0)).clamp_(min=0)
    return width.mul_(height)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each of (..., G, 4) with each of (..., B, 4): (..., G, B) in 0–1.

    Two boxes without area have IoU 0, not NaN.

    >>> iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
    tensor([[0.3333]])
    """
    overlap = intersection(first, second)
    union = (area(first).unsqueeze(-1) + area(second).unsqueeze(-2)).sub_(overlap)
    return overlap.div_(union.clamp_(min=1e-12))


def covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """Share of each box of (..., B, 4) that lies inside each region of (..., G, 4): (..., G, B) in 0–1.

    COCO uses this overlap for crowd regions, because it does not depend on the size of the region.
    """
    return intersection(regions, boxes).div_(area(boxes).unsqueeze(-2).clamp(min=1e-12))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (N, B, 4) clipped to their images, whose sizes (N, 2) are (height, width) in pixels."""
    height, width = sizes.to(boxes.dtype).unbind(-1)
    limits = sizes.new_empty((sizes.shape[0], 1, 4), dtype=boxes.dtype)
    limits[:, 0, 0::2] = width[:, None]
    limits[:, 0, 1::2] = height[:, None]
    return boxes.clamp(min=0).minimum(limits)


def inside(boxes: Tensor, sizes: Tensor, allowed_border: float = 0.0) -> Tensor:
    """Whether boxes (B, 4) extend at most `allowed_border` pixels beyond images of sizes (N, 2), (height, width): (N,
    B) bool."""
    height, width = sizes.to(boxes.dtype).unsqueeze(1).unbind(-1)  # (N, 1) each
    x0, y0, x1, y1 = boxes.unbind(-1)
    lower = (x0 >= -allowed_border) & (y0 >= -allowed_border)
    return lower & (x1 <= width + allowed_border) & (y1 <= height + allowed_border)
