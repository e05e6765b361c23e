"""Scored boxes → the few that remain after non-maximum suppression (NMS).

Shapes: N images, R boxes an image in descending order of score, D kept boxes.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor

from detection.geometry import boxes as box_ops

_BLOCK = 512  # boxes that one round of `_first_survivors` looks at; 256 and 1024 were no faster for 12,000 → 2,000


def suppress(boxes: Tensor, valid: Tensor, threshold: float, limit: int) -> tuple[Tensor, Tensor]:
    """Greedy NMS of each image, stopped at `limit` survivors: `index` (N, D) and `kept` (N, D) bool, where D =
    min(limit, R).

    The survivors come first, in descending order of score; where `kept` is False, `index` is a padding without meaning.
    The result is that of the full NMS,
    cut to `limit`.

    Args:
        boxes: (N, R, 4), each image's in descending order of score.
        valid: (N, R) bool; False takes no part.
        threshold: a box is suppressed by a better one that it overlaps with an IoU above this.
    """
    images, count = valid.shape
    if boxes.is_cuda:
        survives = _survivors_in_one_call(boxes, valid, threshold)
    else:
        survives = torch.zeros_like(valid)
        for image in range(images):  # on a CPU the images' NMS is serial work whichever way it is written
            candidates = valid[image].nonzero().squeeze(1)
            survives[image, candidates[_first_survivors(boxes[image, candidates], threshold, limit)]] = True
    kept_index = torch.where(survives, torch.arange(count, device=boxes.device), count)
    index = kept_index.topk(min(limit, count), dim=1, largest=False, sorted=True).values
    kept = index < count
    return index.masked_fill(~kept, 0), kept


def _first_survivors(boxes: Tensor, threshold: float, limit: int) -> Tensor:
    """Positions of the first `limit` survivors among sorted boxes (R, 4).

    Works through the boxes block by block and stops when enough are found: with thousands of boxes and a few hundred
    wanted, most are never looked at.
    """
    if len(boxes) <= max(limit, _BLOCK):
        return _nms(boxes, threshold)[:limit]
    kept = torch.empty(0, dtype=torch.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(boxes)))
        if len(kept):
            overlapped = (box_ops.iou(boxes[kept], boxes[block]) > threshold).any(dim=0)
            block = block[~overlapped]
        kept = torch.cat([kept, block[_nms(boxes[block], threshold)]])
        if len(kept) >= limit:
            break
    return kept[:limit]


def _nms(boxes: Tensor, threshold: float) -> Tensor:
    """The full NMS of sorted boxes (R, 4)."""
    return torchvision.ops.nms(boxes, torch.arange(len(boxes), 0, -1, dtype=boxes.dtype), threshold)


def _survivors_in_one_call(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """The full NMS of all images in one kernel call, as a mask (N, R)."""
    images, count = valid.shape
    descending = torch.arange(count, 0, -1, device=boxes.device, dtype=boxes.dtype)
    survives = torch.zeros_like(valid)
    candidates = valid.flatten().nonzero().squeeze(1)
    kept = suppress_by_class(
        boxes.flatten(0, 1)[candidates], descending.repeat(images)[candidates], candidates // count, threshold
    )
    survives.view(-1)[candidates[kept]] = True
    return survives


def suppress_by_class(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """NMS among boxes (R, 4) of the same group (R,) — an image's class, say: positions of the survivors in descending
    order of score.

    In double precision on a GPU, where torchvision moves the groups apart, by up to millions of pixels.
    """
    if boxes.is_cuda:
        boxes, scores = boxes.double(), scores.double()
    return torchvision.ops.batched_nms(boxes, scores, groups, threshold)
