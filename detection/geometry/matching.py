"""Boxes and ground truth → the ground truth and the kind (POSITIVE, NEGATIVE or IGNORED) that each box is assigned.

The pairs are processed in blocks of ground-truth boxes, so that memory does not grow with their number: 2,000 objects
and 28,500 anchors have 57 million overlaps, and each needs several numbers.

Shapes: N images, G ground-truth boxes (padded), B boxes (anchors or proposals).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from detection.geometry import boxes as box_ops

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

_TIE = 1e-6  # IoUs this close are equal: float32 rounds the corners of anchors placed symmetrically about an object

# Ground truth (N, G, 4) and boxes (N, B, 4) or (B, 4) → a new tensor (N, G, B) in 0–1, such as `boxes.iou`.
Overlap = Callable[[Tensor, Tensor], Tensor]


class Matches(NamedTuple):
    """`ground_truth` (N, B) int64: the position of the best-overlapping ground truth among the G; `kind` (N, B) int8:
    POSITIVE, NEGATIVE or IGNORED."""

    ground_truth: Tensor
    kind: Tensor


def match(
    ground_truth: Tensor,
    is_target: Tensor,
    boxes: Tensor,
    takes_part: Tensor | None = None,
    *,
    positive: float,
    negative: float,
    negative_low: float = 0.0,
    best_is_positive: bool = False,
    overlap: Overlap = box_ops.iou,
    overlaps_at_once: int = 1 << 19,
) -> Matches:
    """Assigns a ground truth and a kind to each box.

    A box is POSITIVE if its overlap with its best ground truth is at least `positive`, NEGATIVE if it is in
    [`negative_low`, `negative`), and IGNORED otherwise. With `best_is_positive`, the boxes with the highest overlap
    with a ground truth (all of them in a tie) are also POSITIVE if that overlap is above 0; each is still assigned to
    its own best ground truth (py-faster-rcnn `anchor_target_layer.py`). Without ground truth every overlap is 0.

    Args:
        ground_truth: (N, G, 4); `is_target` (N, G) bool: which of them are targets (neither padding nor crowds).
        boxes: (N, B, 4), or (B, 4) for all images.
        takes_part: (N, B) bool; the other boxes are IGNORED, and never the best of a ground truth. None: all take part.
        overlap: computes the overlaps that are compared with the thresholds; IoU by default.
        overlaps_at_once: pairs whose overlaps are in memory together; it affects only time and memory.

    Example: one object and boxes with IoU 0.8, 0.4 and 0.1, positive 0.7, negative 0.3 → kind [1, -1, 0].
    """
    images, count = ground_truth.shape[:2]
    size = (images, boxes.shape[-2])
    best = torch.zeros(size, dtype=boxes.dtype, device=boxes.device)  # without ground truth the overlap is 0
    assigned = torch.zeros(size, dtype=torch.int64, device=boxes.device)
    is_anyones_best = torch.zeros(size, dtype=torch.bool, device=boxes.device)
    for block in _blocks(count, size[0] * size[1], overlaps_at_once):
        overlaps = overlap(ground_truth[:, block], boxes).masked_fill_(~is_target[:, block, None], -1)
        if best_is_positive:
            if takes_part is not None:
                overlaps = overlaps.masked_fill_(~takes_part[:, None], -1)
            most = overlaps.amax(dim=2, keepdim=True)  # (N, g, 1): the highest overlap of each ground truth
            is_anyones_best |= ((overlaps > most - _TIE) & (most > 0)).any(dim=1)
        most, own = overlaps.max(dim=1)  # (N, B)
        is_better = most > best
        best = torch.where(is_better, most, best)
        assigned = torch.where(is_better, own + block.start, assigned)
    is_positive = (best >= positive) | is_anyones_best
    is_negative = (best < negative) & (best >= negative_low)
    kind = is_negative.char().sub(1).masked_fill_(is_positive, POSITIVE)  # True - 1 is NEGATIVE, False - 1 is IGNORED
    if takes_part is not None:
        kind = kind.masked_fill_(~takes_part, IGNORED)
    return Matches(assigned, kind)


def inside_any(
    boxes: Tensor, regions: Tensor, counts: Tensor, share: float, *, overlaps_at_once: int = 1 << 19
) -> Tensor:
    """Whether at least `share` of each box of (N, B, 4), or (B, 4), lies inside one of the regions (N, G, 4) whose
    `counts`, (N, G) bool, is True: (N, B) bool."""
    found = torch.zeros((len(regions), boxes.shape[-2]), dtype=torch.bool, device=boxes.device)
    for block in _blocks(regions.shape[1], found.numel(), overlaps_at_once):
        covered = box_ops.covered_share(boxes, regions[:, block]) >= share
        found |= (covered & counts[:, block, None]).any(dim=1)
    return found


def _blocks(count: int, pairs: int, most: int) -> Iterator[slice]:
    """Slices of 0..count-1 with at most `most` pairs each, where each number stands for `pairs` pairs; at least one
    number each."""
    together = max(most // max(pairs, 1), 1)
    for start in range(0, count, together):
        yield slice(start, start + together)
