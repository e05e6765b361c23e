"""Scored boxes → rescored boxes (Soft-NMS), and boxes averaged with their neighbours (box voting).

The non-maximum suppression that only keeps or drops boxes has several forms, in `detection/kernels/suppression.py`.
Shapes: B boxes of all groups, D chosen boxes, E groups, M boxes of the largest group.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from detection.geometry import boxes as box_ops


def soft_suppress(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    *,
    decay: Literal["linear", "gaussian"],
    iou: float,
    sigma: float,
    min_score: float,
    limit: int,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS of boxes (B, 4) within each group (B,), such as a class of an image: positions (D,) and new scores (D,),
    in descending order of the new score.

    The best box of a group is chosen, the scores of the others are lowered by their IoU with it, and so on. All groups
    advance together, one box each at a time, so that a step is one operation on (E, M).

    Args:
        scores: (B,) in 0–1.
        decay: "linear" multiplies a score by 1 − IoU where the IoU is above `iou`, "gaussian" by exp(−IoU² / sigma)
            everywhere.
        min_score: boxes whose new score is below this are dropped.
        limit: at most this many boxes of a group are chosen.

    Source: Bodla et al., "Soft-NMS", section 3; the authors' `lib/nms/cpu_nms.pyx`, without its +1.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), scores
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    _, group, counts = groups[order].unique_consecutive(return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    column = torch.arange(len(order), device=boxes.device) - first[group]
    size = (len(counts), int(counts.max()))
    own_boxes = boxes.new_zeros((*size, 4)).index_put_((group, column), boxes[order])
    own_scores = scores.new_zeros(size).index_put_((group, column), scores[order])
    waits = torch.zeros(size, dtype=torch.bool, device=boxes.device).index_put_(
        (group, column), torch.ones_like(group, dtype=torch.bool)
    )
    row = torch.arange(size[0], device=boxes.device)
    chosen, new_scores = [], []
    for _ in range(min(size[1], limit)):
        best, at = own_scores.masked_fill(~waits, -1).max(dim=1)  # the first of equals
        if not bool((best >= min_score).any()):
            break
        chosen.append(first + at)
        new_scores.append(best)
        waits[row, at] = False
        overlaps = box_ops.iou(own_boxes[row, at][:, None], own_boxes).squeeze(1)
        if decay == "linear":
            factor = torch.where(overlaps > iou, 1 - overlaps, 1)
        else:
            factor = torch.exp(-overlaps.square() / sigma)
        own_scores = own_scores * factor
    if not chosen:
        return order[:0], scores[:0]
    # Groups that were done earlier went on with scores below `min_score`, at last with −1.
    positions, rescored = torch.stack(chosen, dim=1).flatten(), torch.stack(new_scores, dim=1).flatten()
    remains = (rescored >= min_score).nonzero().squeeze(1)
    ranked = remains[rescored[remains].argsort(descending=True, stable=True)]
    return order[positions[ranked]], rescored[ranked]


def vote(chosen: Tensor, chosen_groups: Tensor, boxes: Tensor, scores: Tensor, groups: Tensor, *, iou: float) -> Tensor:
    """Each of the chosen boxes (D, 4) replaced by the mean of all boxes (B, 4) of its group whose IoU with it is at
    least `iou`, weighted by their scores (B,): (D, 4). The chosen boxes are among all boxes, and have an area.

    Source: Gidaris and Komodakis, "Object detection via a multi-region & semantic segmentation-aware CNN model",
    section 3; Detectron, `box_voting` in `detectron/utils/boxes.py`.
    """
    votes = (box_ops.iou(chosen, boxes) >= iou) & (chosen_groups[:, None] == groups)
    weights = votes * scores.double()  # autocast leaves double precision alone
    return (weights @ boxes.double() / weights.sum(dim=1, keepdim=True)).to(boxes.dtype)
