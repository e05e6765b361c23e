"""Scored boxes → the boxes that remain after non-maximum suppression (NMS), in three forms.

`suppress` runs the full NMS of each image, `suppress_in_blocks` stops when enough boxes remain, and
`suppress_in_one_call` processes all images in one kernel call. All three give the same result.

Shapes: N images, R boxes an image in descending order of score, D kept boxes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detection.geometry import boxes as box_ops
from detection.kernels.torchvision_nms import nms, nms_by_group

_BLOCK = 512  # boxes in one round of `_first_survivors`; 256 and 1024 were no faster for 12,000 → 2,000


def suppress(boxes: Tensor, valid: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Greedy NMS of each image: `index` (N, D) and `kept` (N, D) bool, where D = min(limit, R).

    The kept boxes come first, in descending order of score; where `kept` is False, `index` is padding.

    Args:
        boxes: (N, R, 4), each image's in descending order of score.
        valid: (N, R) bool; boxes where it is False are ignored.
        threshold: a box is suppressed if its IoU with a kept box of higher score is above this.
        limit: at most this many boxes are kept in an image.
    """
    return _image_by_image(boxes, valid, limit, lambda own: _nms(own, threshold))


def suppress_in_blocks(boxes: Tensor, valid: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """The same as `suppress`, faster on a CPU: the NMS of an image stops at `limit` kept boxes."""
    return _image_by_image(boxes, valid, limit, lambda own: _first_survivors(own, threshold, limit))


def suppress_in_one_call(boxes: Tensor, valid: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """The same as `suppress`, faster on a GPU: all images in one kernel call."""
    images, count = valid.shape
    descending = torch.arange(count, 0, -1, device=boxes.device, dtype=boxes.dtype)
    survives = torch.zeros_like(valid)
    candidates = valid.flatten().nonzero().squeeze(1)
    kept = suppress_by_group_in_double(
        boxes.flatten(0, 1)[candidates], descending.repeat(images)[candidates], candidates // count, threshold
    )
    survives.view(-1)[candidates[kept]] = True
    return _first(survives, limit)


def suppress_by_group(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """NMS of boxes (R, 4) within each group (R,), such as a class of an image: positions of the kept boxes, in
    descending order of score."""
    import torchvision  # here, see `torchvision_nms`

    return torchvision.ops.batched_nms(boxes, scores, groups, threshold)


def suppress_by_group_on_cpu(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """The same as `suppress_by_group` on a CPU, without the import of torchvision, which takes a second."""
    return nms_by_group(boxes, scores, groups, threshold)


def suppress_by_group_in_double(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """The same as `suppress_by_group`, in double precision: on a GPU torchvision adds offsets of up to millions of
    pixels to separate the groups, and single precision would then round the boxes."""
    return suppress_by_group(boxes.double(), scores.double(), groups, threshold)


def _image_by_image(
    boxes: Tensor, valid: Tensor, limit: int, survivors_of: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    survives = torch.zeros_like(valid)
    for image in range(len(valid)):  # serial on a CPU, one kernel call for each image elsewhere
        candidates = valid[image].nonzero().squeeze(1)
        survives[image, candidates[survivors_of(boxes[image, candidates])]] = True
    return _first(survives, limit)


def _first(survives: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Positions (N, D) of the first `limit` survivors (N, R) of each image, and their validity (N, D), bool."""
    count = survives.shape[1]
    positions = torch.where(survives, torch.arange(count, device=survives.device), count)
    index = positions.topk(min(limit, count), dim=1, largest=False, sorted=True).values
    kept = index < count
    return index.masked_fill(~kept, 0), kept


def _first_survivors(boxes: Tensor, threshold: float, limit: int) -> Tensor:
    """Positions of the first `limit` survivors among sorted boxes (R, 4).

    Processes the boxes in blocks and stops when enough are found: of thousands of boxes most are not processed if only
    a few hundred are needed.
    """
    if len(boxes) <= max(limit, _BLOCK):
        return _nms(boxes, threshold)[:limit]
    kept = torch.empty(0, dtype=torch.int64, device=boxes.device)
    for start in range(0, len(boxes), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(boxes)), device=boxes.device)
        if len(kept):
            overlapped = (box_ops.iou(boxes[kept], boxes[block]) > threshold).any(dim=0)
            block = block[~overlapped]
        kept = torch.cat([kept, block[_nms(boxes[block], threshold)]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _nms(boxes: Tensor, threshold: float) -> Tensor:
    """The full NMS of sorted boxes (R, 4)."""
    descending = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    return nms(boxes, descending, threshold)
