"""Detections and ground truth → the number of errors of each kind.

Every detection is of the first of these kinds that applies, as in TIDE (Bolya et al., ECCV 2020), at IoU 0.5:

| kind | a detection that |
| --- | --- |
| correct | finds an object of its class by COCO's rule (see `matching`) |
| (ignored) | is not matched, but lies at least half inside a crowd region of its class; it does not count |
| localisation | overlaps an object of its class by 0.1 to 0.5: right class, poor box |
| confusion | overlaps an object of another class by 0.5 or more: good box, wrong class |
| duplicate | overlaps an object of its class by 0.5 or more that a detection with a better score has found |
| background | is none of these (TIDE's "both wrong" is counted here) |

Objects that no detection finds are missed. A detection's kind depends only on the detections with better scores, so the
kinds are computed once for all score thresholds; the counts are given at one threshold, by default the one with the
best F1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backbones.common.text import printable
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.results import checked
from detection.evaluation.stable_matching import (
    UNMATCHED,
    box_areas,
    overlapping_pairs,
    pairwise_intersection,
    pairwise_iou,
    stable_matching,
)

KINDS = ("correct", "localisation", "confusion", "duplicate", "background")
IGNORED = len(KINDS)
MATCH_IOU = 0.5
NEAR_IOU = 0.1
_LARGEST_CONFUSIONS = 10


@dataclass(frozen=True)
class ErrorAnalysis:
    """Counts at one score threshold.

    counts: a number for each of `KINDS`; their sum is the number of detections with a score of at least
    `score_threshold`, without the ignored ones. objects: targets, without crowd regions; missed: those that no correct
    detection finds.
    confusions: (true class, predicted class, how often), the most frequent first, ten at most.
    """

    score_threshold: float
    counts: dict[str, int]
    ignored: int
    objects: int
    missed: int
    confusions: list[tuple[str, str, int]]

    @property
    def precision(self) -> float | None:
        """Correct detections / all detections that count; None if there are none."""
        return _share(self.counts["correct"], sum(self.counts.values()))

    @property
    def recall(self) -> float | None:
        """Objects found / all objects; None if there are none."""
        return _share(self.objects - self.missed, self.objects)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts, for JSON."""
        return {**asdict(self), "precision": self.precision, "recall": self.recall}

    def table(self) -> str:
        """The counts and shares as text."""
        total = sum(self.counts.values())
        lines = [f"detections with a score of at least {self.score_threshold:.3f}: {total} (IoU 0.5)"]
        lines += [f"  {kind:<14}{count:>8}  {_percent(count, total)}" for kind, count in self.counts.items()]
        lines.append(f"objects: {self.objects}")
        lines.append(f"  {'missed':<14}{self.missed:>8}  {_percent(self.missed, self.objects)}")
        if self.confusions:
            lines.append("most frequent confusions:")
            lines += [
                f"  {printable(true)} taken for {printable(predicted)}: {count}"
                for true, predicted, count in self.confusions
            ]
        return "\n".join(lines)


def analyse_errors(
    ground_truth: GroundTruth, detections: np.ndarray, *, score_threshold: float | None = None
) -> ErrorAnalysis:
    """Counts the detections of each kind in the module's table.

    Args:
        ground_truth: the objects, and the images whose detections are counted.
        detections: float64 (D, 7) rows of image_id, x, y, w, h, score, category_id.
        score_threshold: the lowest score that is counted; None for the threshold with the best F1.

    Raises:
        UserError: detections that are not finite (see `results.checked`).
    """
    rows = checked(detections)
    rows = rows[np.isin(rows[:, 0], ground_truth.image_ids) & np.isin(rows[:, 6], ground_truth.category_ids)]
    rows = rows[np.argsort(-rows[:, 5], kind="stable")]
    kinds = np.full(len(rows), KINDS.index("background"))
    mistaken_for = np.full(len(rows), -1)  # index of the object that a confusion overlaps
    objects_of, rows_of = _groups(ground_truth.object_image_ids), _groups(rows[:, 0])
    nothing = np.zeros(0, dtype=np.int64)
    for image_id, in_image in rows_of.items():
        objects = objects_of.get(image_id, nothing)
        kinds[in_image], confused_with = _kinds_of_image(ground_truth, objects, rows[in_image])
        mistaken_for[in_image] = confused_with

    targets = int((~ground_truth.crowds).sum())
    if score_threshold is None:
        score_threshold = _best_threshold(rows[:, 5], kinds, targets)
    counted = rows[:, 5] >= score_threshold
    counts = {kind: int((kinds[counted] == number).sum()) for number, kind in enumerate(KINDS)}
    names = dict(zip(ground_truth.category_ids.tolist(), ground_truth.category_names, strict=True))
    confused = counted & (kinds == KINDS.index("confusion"))
    pairs = Counter(
        (names[int(true)], names[int(predicted)])
        for true, predicted in zip(
            ground_truth.object_category_ids[mistaken_for[confused]], rows[confused, 6], strict=True
        )
    )
    return ErrorAnalysis(
        score_threshold=score_threshold,
        counts=counts,
        ignored=int((kinds[counted] == IGNORED).sum()),
        objects=targets,
        missed=targets - counts["correct"],
        confusions=[(*pair, count) for pair, count in pairs.most_common(_LARGEST_CONFUSIONS)],
    )


def _kinds_of_image(ground_truth: GroundTruth, objects: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinds (D,) of one image's detections, sorted by score, and the overlapped object (index in the ground truth)."""
    targets, crowds = objects[~ground_truth.crowds[objects]], objects[ground_truth.crowds[objects]]
    found_boxes, target_boxes = _corners(rows[:, 1:5]), _corners(ground_truth.boxes[targets])
    same_class = rows[:, 6][:, None] == ground_truth.object_category_ids[targets]  # (D, G)

    asker, asked, _ = overlapping_pairs(found_boxes, target_boxes, MATCH_IOU)
    of_class = same_class[asker, asked]
    asker, asked = asker[of_class], asked[of_class]
    held = stable_matching(asker, asked, asker, len(targets))
    correct = np.zeros(len(rows), dtype=bool)
    correct[held[held != UNMATCHED]] = True

    # the extra column of zeros stands for "no object", so images without objects need no special case
    overlaps = np.pad(pairwise_iou(found_boxes, target_boxes), ((0, 0), (0, 1)))
    same_class = np.pad(same_class, ((0, 0), (0, 1)))
    own = np.where(same_class, overlaps, 0.0).max(axis=1)
    foreign = np.where(same_class, 0.0, overlaps)
    crowd_class = rows[:, 6][:, None] == ground_truth.object_category_ids[crowds]
    inside = pairwise_intersection(found_boxes, _corners(ground_truth.boxes[crowds]))
    in_crowd = (crowd_class & (inside >= MATCH_IOU * box_areas(found_boxes)[:, None])).any(axis=1)
    kinds = np.select(
        [correct, in_crowd, (own >= NEAR_IOU) & (own < MATCH_IOU), foreign.max(axis=1) >= MATCH_IOU, own >= MATCH_IOU],
        [0, IGNORED, 1, 2, 3],
        default=4,
    )
    return kinds, np.append(targets, -1)[foreign.argmax(axis=1)]


def _best_threshold(scores: np.ndarray, kinds: np.ndarray, targets: int) -> float:
    """The score threshold with the best F1 = 2 · correct / (detections + objects); the highest if several are equal."""
    correct = np.cumsum(kinds == 0)
    counted = np.cumsum(kinds != IGNORED)
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores stay together
    f1 = np.where(last_of_score, 2 * correct / np.maximum(counted + targets, 1), -1.0)
    return float(scores[f1.argmax()]) if len(scores) else 0.0


def _groups(ids: np.ndarray) -> dict[int, np.ndarray]:
    """Id → its positions in `ids`, ascending."""
    order = np.argsort(ids, kind="stable")
    values, starts = np.unique(ids[order], return_index=True)
    return {int(value): places for value, places in zip(values, np.split(order, starts[1:]), strict=bool(len(values)))}


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "    —"
