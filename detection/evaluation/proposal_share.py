"""What the proposals lose and what the classifier loses: recall of the proposals, and AP with the objects as proposals.

An object is covered at an IoU threshold if a proposal overlaps it by that much, of any rank among those that the
detector classifies. AP with the ground truth in place of the proposals is what the Fast R-CNN would reach if the RPN
missed nothing and proposed nothing else.

Shapes: G objects, R proposals, I IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.coco_parameters import IOU_THRESHOLDS
from detection.evaluation.object_attributes import ATTRIBUTES, size_bins
from detection.evaluation.stable_matching import pairwise_iou

ALL = "all"


@dataclass(frozen=True)
class ProposalShare:
    """Recall of the proposals by size and IoU threshold, and AP of the detector and of its classifier alone.

    proposals: how many an image the detector classifies, at most. objects: bin of sizes, and "all" → number.
    recall: the same → the share of these objects that is covered at each of the ten IoU thresholds, None without any.
    figures, with_ground_truth: COCO's figures with the RPN's proposals, and with the objects' own boxes in their place.
    """

    proposals: int
    objects: dict[str, int]
    recall: dict[str, list[float] | None]
    figures: dict[str, float | None]
    with_ground_truth: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, lists and dicts, for JSON."""
        return dict(vars(self))


def best_overlaps(proposals: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The largest IoU of each box with any proposal, float64 (G,), 0 without proposals. Both are `(x0, y0, x1, y1)`."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    proposals = np.asarray(proposals, dtype=np.float64).reshape(-1, 4)
    return pairwise_iou(boxes, proposals).max(axis=1, initial=0.0)


def proposal_share(
    overlaps: np.ndarray,
    areas: np.ndarray,
    proposals: int,
    figures: dict[str, float | None],
    with_ground_truth: dict[str, float | None],
) -> ProposalShare:
    """Joins the figures; overlaps (G,): of `best_overlaps` for all objects that are no crowd regions, areas (G,)."""
    bins = size_bins(areas)
    chosen = {ALL: np.ones(len(areas), dtype=bool)}
    chosen |= {name: bins == number for number, name in enumerate(ATTRIBUTES["size"][2])}
    recall = {
        name: (overlaps[rows, None] >= IOU_THRESHOLDS).mean(axis=0).tolist() if rows.any() else None
        for name, rows in chosen.items()
    }
    objects = {name: int(rows.sum()) for name, rows in chosen.items()}
    return ProposalShare(proposals, objects, recall, figures, with_ground_truth)
