"""Proposals and ground truth → class-agnostic average recall at several limits of proposals per image.

Shapes: R proposals and G ground-truth boxes of one image; A the four area ranges (all, small, medium, large); L limits;
I the ten IoU thresholds 0.50 … 0.95; P pairs of a proposal and a ground-truth box that overlap enough at some
threshold. Boxes are `(x0, y0, x1, y1)` in pixels of the original image.

The figures are those of COCOeval with `useCats = 0` and `maxDets` set to the limits: in order of score, each proposal
is matched to the unmatched ground-truth box that it overlaps most, among those that it overlaps by the threshold or
more. Crowd regions are not targets. For an area range, only objects of that size count. Objects of other sizes do not
change the result, because COCOeval matches a proposal to them only if it has no object of the range to match.

Detectron and mmdetection (the AR@1000 of their model zoos) match in order of overlap instead: the pair with the largest
overlap first. On COCO's and BCCD's ground truth, with proposals scattered around the objects, the results of the two
rules never differed by more than 0.001, so the figures are comparable.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.evaluation.coco_parameters import AREA_RANGES, IOU_THRESHOLDS
from detection.evaluation.stable_matching import box_areas, overlapping_pairs, stable_matching

LIMITS = (100, 300, 1000, 2000)


@dataclass(frozen=True)
class ProposalRecall:
    """Recall of proposals.

    limits: L ascending maxima of proposals per image. average_recall: area range → L values in 0–1, the mean over the
    IoU thresholds, or None if no object has that size. recall_50: the recall at IoU 0.5 over all sizes, L values or
    None. objects: area range → number of targets.
    """

    limits: tuple[int, ...]
    average_recall: dict[str, list[float] | None]
    recall_50: list[float] | None
    objects: dict[str, int]
    images: int

    def up_to(self, most: int) -> ProposalRecall:
        """The same figures for at most `most` proposals per image: those of the limits below `most`, and of `most`
        itself, which equals every larger limit."""
        below = [limit for limit in self.limits if limit < most]
        if len(below) == len(self.limits):
            return self
        averages = {name: values and values[: len(below) + 1] for name, values in self.average_recall.items()}
        recall_50 = self.recall_50 and self.recall_50[: len(below) + 1]
        return dataclasses.replace(self, limits=(*below, most), average_recall=averages, recall_50=recall_50)

    def to_dict(self) -> dict[str, Any]:
        """Figures by name (`AR_1000`, `AR_1000_small`, `recall50_1000` …) and counts, for JSON."""
        rows = [("AR", "" if name == "all" else f"_{name}", values) for name, values in self.average_recall.items()]
        rows.append(("recall50", "", self.recall_50))
        figures = {
            f"{kind}_{limit}{suffix}": None if values is None else values[column]
            for kind, suffix, values in rows
            for column, limit in enumerate(self.limits)
        }
        return {"figures": figures, "objects": dict(self.objects), "images": self.images}

    def table(self) -> str:
        """One line per area range, one column per limit."""
        lines = [f"{'proposals an image':<28}{'objects':>9}" + "".join(f"{limit:>9}" for limit in self.limits)]
        rows = [(f"AR @[ IoU=0.50:0.95 ] {name}", name, values) for name, values in self.average_recall.items()]
        rows.append(("recall @[ IoU=0.50 ] all", "all", self.recall_50))
        for title, name, values in rows:
            cells = [f"{value:.3f}" for value in values] if values is not None else ["—"] * len(self.limits)
            lines.append(f"{title:<28}{self.objects[name]:>9}" + "".join(f"{cell:>9}" for cell in cells))
        return "\n".join(lines)


class RecallAccumulator:
    """Accumulates recall image by image. Accumulators of several ranks merge exactly, because they hold whole numbers.

    found: int64 (A, L, I) targets found; objects: int64 (A,) targets there are; image_ids: the images added.
    """

    def __init__(self, limits: tuple[int, ...] = LIMITS) -> None:
        if not limits or list(limits) != sorted(set(limits)) or limits[0] < 1:
            raise ValueError(f"limits must be ascending numbers of proposals, at least 1, not {limits}")
        self.limits = tuple(limits)
        self.found = np.zeros((len(AREA_RANGES), len(limits), len(IOU_THRESHOLDS)), dtype=np.int64)
        self.objects = np.zeros(len(AREA_RANGES), dtype=np.int64)
        self.image_ids: set[int] = set()

    def add(
        self,
        image_id: int,
        proposals: np.ndarray,
        boxes: np.ndarray,
        areas: np.ndarray | None = None,
        crowds: np.ndarray | None = None,
    ) -> None:
        """Adds one image.

        Args:
            proposals: (R, 4) in descending order of score; those beyond the last limit are not used.
            boxes: (G, 4) ground truth.
            areas: (G,) the annotations' areas, by which COCO sizes objects; None for the boxes' own.
            crowds: bool (G,) which of `boxes` are crowd regions; None for none.

        Raises:
            UserError: a proposal that is not finite; the message names the image.
            ValueError: the image was added before, or shapes do not fit.
        """
        if image_id in self.image_ids:
            raise ValueError(f"image id {image_id} was added twice: its objects would count twice")
        proposals = np.asarray(proposals, dtype=np.float64).reshape(-1, 4)[: self.limits[-1]]
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        if not np.isfinite(proposals).all():
            raise UserError(
                f"a proposal of image id {image_id} is not finite: the network that proposed it is broken, "
                "or the store is"
            )
        areas = box_areas(boxes) if areas is None else np.asarray(areas, dtype=np.float64)
        if crowds is not None:
            targets = ~np.asarray(crowds, dtype=bool)
            boxes, areas = boxes[targets], areas[targets]
        in_range = np.stack([(areas >= low) & (areas <= high) for low, high in AREA_RANGES.values()])  # (A, G)
        ranks = match_by_score(proposals, boxes, in_range)  # (A, I, G)
        self.image_ids.add(image_id)
        self.objects += in_range.sum(axis=1)
        for column, limit in enumerate(self.limits):
            self.found[:, column] += (ranks < limit).sum(axis=2)

    def merge(self, other: RecallAccumulator) -> None:
        """Adds the counts of another accumulator (of another rank) for other images.

        Raises:
            ValueError: different limits, or an image that is in both.
        """
        if other.limits != self.limits:
            raise ValueError(f"limits differ: {self.limits} and {other.limits}")
        twice = self.image_ids & other.image_ids
        if twice:
            raise ValueError(f"{len(twice)} images were counted twice, image id {min(twice)} among them")
        self.image_ids |= other.image_ids
        self.found += other.found
        self.objects += other.objects

    def result(self) -> ProposalRecall:
        """The figures over all images added so far."""
        objects = dict(zip(AREA_RANGES, self.objects.tolist(), strict=True))
        averages = {
            name: (self.found[row] / count).mean(axis=1).tolist() if count else None
            for row, (name, count) in enumerate(objects.items())
        }
        recall_50 = (self.found[0, :, 0] / objects["all"]).tolist() if objects["all"] else None
        return ProposalRecall(self.limits, averages, recall_50, objects, len(self.image_ids))


def match_by_score(proposals: np.ndarray, boxes: np.ndarray, in_range: np.ndarray) -> np.ndarray:
    """Which proposal finds which ground-truth box by COCO's rule, for every area range and threshold at once.

    Args:
        proposals: float64 (R, 4) in order of score. boxes: float64 (G, 4). in_range: bool (A, G), which boxes are
            targets of an area range.

    Returns:
        int64 (A, I, G): the rank (from 0) of the proposal that finds the box, or the largest int64 where none does.

    >>> two = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    >>> match_by_score(two, two[:1], np.ones((1, 1), dtype=bool))[0, :, 0].tolist()  # found by the first
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    """
    proposal, box, overlap = overlapping_pairs(proposals, boxes, IOU_THRESHOLDS[0])
    # Area ranges and thresholds are independent: each gets its own copy of its valid pairs, with keys of its own, and
    # all are matched in one call. np.nonzero keeps the order of the pairs within each.
    valid = in_range[:, None, box] & (overlap >= IOU_THRESHOLDS[:, None])  # (A, I, P)
    area_index, threshold_index, pair = np.nonzero(valid)
    copy = area_index * len(IOU_THRESHOLDS) + threshold_index
    shape = (len(in_range), len(IOU_THRESHOLDS), len(boxes))
    rank = proposal[pair]
    held = stable_matching(copy * len(proposals) + rank, copy * len(boxes) + box[pair], rank, int(np.prod(shape)))
    return held.reshape(shape)
