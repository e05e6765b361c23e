"""What the proposals lose and what the classifier loses: recall of the proposals, and AP with the objects as proposals.

An object is covered at an IoU threshold if a proposal overlaps it by that much, of any rank among those that the
detector classifies. AP with the ground truth in place of the proposals is what the Fast R-CNN would reach if the RPN
missed nothing and proposed nothing else.

Why an object is not covered is told by three further figures of it: its size in pixels of the network's input, the best
IoU of an anchor with it, and whether a larger number of proposals covers more.

Shapes: G objects, R proposals, I IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from detection.evaluation.coco_parameters import IOU_THRESHOLDS
from detection.evaluation.object_attributes import ATTRIBUTES, size_bins
from detection.evaluation.stable_matching import pairwise_iou

ALL = "all"
COVERED = 0.5  # IoU of a proposal, or an anchor, with an object


class Coverage(NamedTuple):
    """Of each object that is no crowd region, all float64 (G,): its area in pixels of the image; the root of its box's
    area in pixels of the network's input; the largest IoU with a proposal, with one of the better half of the
    proposals, and with an anchor."""

    areas: np.ndarray
    sides: np.ndarray
    overlaps: np.ndarray
    of_better_half: np.ndarray
    of_anchors: np.ndarray


@dataclass(frozen=True)
class ProposalShare:
    """Recall of the proposals by size and IoU threshold, and AP of the detector and of its classifier alone.

    proposals: how many an image the detector classifies, at most. objects: bin of sizes, and "all" → number.
    recall: the same → the share of these objects that is covered at each of the ten IoU thresholds, None without any.
    sides: the same → the median size in pixels of the network's input. half_recall, anchor_recall: the same → the share
    that is covered at IoU 0.5 by the better half of the proposals, and by an anchor. All None without objects.
    figures, with_ground_truth: COCO's figures with the RPN's proposals, and with the objects' own boxes in their place.
    """

    proposals: int
    objects: dict[str, int]
    recall: dict[str, list[float] | None]
    sides: dict[str, float | None]
    half_recall: dict[str, float | None]
    anchor_recall: dict[str, float | None]
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
    coverage: Coverage,
    proposals: int,
    figures: dict[str, float | None],
    with_ground_truth: dict[str, float | None],
) -> ProposalShare:
    """Joins the figures, and counts the covered objects by size. Arguments as in `ProposalShare`."""
    bins = size_bins(coverage.areas)
    chosen = {ALL: np.ones(len(bins), dtype=bool)}
    chosen |= {name: bins == number for number, name in enumerate(ATTRIBUTES["size"][2])}
    present = {name: rows if rows.any() else None for name, rows in chosen.items()}

    def share(overlaps: np.ndarray) -> dict[str, float | None]:
        return {n: None if rows is None else float((overlaps[rows] >= COVERED).mean()) for n, rows in present.items()}

    return ProposalShare(
        proposals=proposals,
        objects={name: int(rows.sum()) for name, rows in chosen.items()},
        recall={
            name: None if rows is None else (coverage.overlaps[rows, None] >= IOU_THRESHOLDS).mean(axis=0).tolist()
            for name, rows in present.items()
        },
        sides={
            name: None if rows is None else float(np.median(coverage.sides[rows])) for name, rows in present.items()
        },
        half_recall=share(coverage.of_better_half),
        anchor_recall=share(coverage.of_anchors),
        figures=figures,
        with_ground_truth=with_ground_truth,
    )
