"""Overlaps of boxes with ground truth → which ground truth each box answers for, and as what.

Shapes: N images, G ground-truth boxes (padded), B boxes (anchors or proposals).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

_TIE = 1e-6  # IoUs this close are equal: float32 rounds the corners of anchors that lie symmetrically about an object


class Matches(NamedTuple):
    """`ground_truth` (N, B) int64: the best-overlapping ground truth's position among the G; `kind` (N, B) int8:
    POSITIVE, NEGATIVE or IGNORED."""

    ground_truth: Tensor
    kind: Tensor


def match(
    overlaps: Tensor,
    *,
    positive: float,
    negative: float,
    negative_low: float = 0.0,
    best_is_positive: bool = False,
) -> Matches:
    """Assigns a ground truth and a kind to each box.

    POSITIVE is IoU ≥ `positive` with the best ground truth; NEGATIVE is IoU in [`negative_low`, `negative`); the rest
    is IGNORED.
    With `best_is_positive`, the boxes that overlap a ground truth most (all of them, in a tie) are POSITIVE for it
    however small that overlap, if there
    is any; the ground truth they answer for is still their own best one (py-faster-rcnn `anchor_target_layer.py`).
    Without ground truth all is NEGATIVE.

    Args:
        overlaps: (N, G, B) IoU, G ≥ 1 (a batch without any object has one row of padding); rows of padding, and columns
            of boxes that take no part, hold -1: such boxes come out as IGNORED only if the
            caller says so (`kind.masked_fill`), since an image without ground truth has nothing but padding.

    Example: overlaps [[0.8, 0.4, 0.1]] (G = 1, B = 3), positive 0.7, negative 0.3 → kind [1, -1, 0].
    """
    best, ground_truth = overlaps.max(dim=1)  # (N, B)
    best = best.clamp(min=0)  # no ground truth at all is no overlap
    is_positive = best >= positive
    is_negative = (best < negative) & (best >= negative_low)
    if best_is_positive:
        most = overlaps.amax(dim=2, keepdim=True)  # (N, G, 1): how well each ground truth is overlapped at best
        is_positive = is_positive | ((overlaps > most - _TIE) & (most > 0)).any(dim=1)
    kind = is_negative.char().sub(1).masked_fill_(is_positive, POSITIVE)  # True - 1 is NEGATIVE, False - 1 is IGNORED
    return Matches(ground_truth, kind)
