"""Outcomes of detections → the number of mistakes of each kind at a score threshold, and the AP that each kind costs.

The kinds are those of `outcomes`. The AP that a kind costs (dAP) is TIDE's: AP at IoU 0.5 after the mistakes of this
kind alone are repaired, minus AP before (Bolya et al., ECCV 2020, section 2.3).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from backbones.common.text import printable
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.outcomes import CONFUSION, CORRECT, KINDS, LOCALISATION, Outcomes
from detection.evaluation.precision_recall import average_precision_by_class

_LARGEST_CONFUSIONS = 10
MISSED = "missed"


@dataclass(frozen=True)
class ErrorAnalysis:
    """Counts at one score threshold.

    counts: a number for each of `KINDS`; their sum is the number of detections with a score of at least
    `score_threshold`, without the ignored ones. objects: targets, without crowd regions; missed: those that no correct
    detection finds.
    confusions: (true class, predicted class, how often), the most frequent first, ten at most.
    average_precision: AP at IoU 0.5, the mean over the classes with targets; None without targets. costs: kind (all but
    "correct", and "missed") → dAP, at least 0, over all detections whatever the threshold.
    """

    score_threshold: float
    counts: dict[str, int]
    ignored: int
    objects: int
    missed: int
    confusions: list[tuple[str, str, int]]
    average_precision: float | None
    costs: dict[str, float]

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
        """The counts, shares and costs as text."""
        total = sum(self.counts.values())
        lines = [f"detections with a score of at least {self.score_threshold:.3f}: {total} (IoU 0.5)"]
        for kind, count in self.counts.items():
            lines.append(f"  {kind:<14}{count:>8}  {_percent(count, total)}{self._cost(kind)}")
        lines.append(f"objects: {self.objects}")
        lines.append(f"  {MISSED:<14}{self.missed:>8}  {_percent(self.missed, self.objects)}{self._cost(MISSED)}")
        if self.confusions:
            lines.append("most frequent confusions:")
            lines += [
                f"  {printable(true)} taken for {printable(predicted)}: {count}"
                for true, predicted, count in self.confusions
            ]
        return "\n".join(lines)

    def _cost(self, kind: str) -> str:
        return f"   AP@0.5 lost: {self.costs[kind]:.3f}" if kind in self.costs else ""


def analyse_errors(
    ground_truth: GroundTruth, outcomes: Outcomes, *, score_threshold: float | None = None
) -> ErrorAnalysis:
    """Counts the detections of each kind, and computes what each kind costs.

    Args:
        ground_truth: the objects. outcomes: of `outcomes_of` on it.
        score_threshold: the lowest score that is counted; None for the threshold with the best F1.
    """
    targets = int(outcomes.targets.sum())
    if score_threshold is None:
        score_threshold = best_threshold(outcomes.scores, outcomes.correct, outcomes.counted, targets)
    at_least = outcomes.scores >= score_threshold
    counted = at_least & outcomes.counted
    counts = {kind: int((outcomes.kinds[counted] == number).sum()) for number, kind in enumerate(KINDS)}
    names = ground_truth.category_names
    confused = counted & (outcomes.kinds == CONFUSION)
    pairs = Counter(
        zip(
            outcomes.object_classes[outcomes.about[confused]].tolist(),
            outcomes.classes[confused].tolist(),
            strict=True,
        )
    )
    average_precision, costs = tide_costs(outcomes, len(names))
    return ErrorAnalysis(
        score_threshold=score_threshold,
        counts=counts,
        ignored=int((at_least & outcomes.ignored).sum()),
        objects=targets,
        missed=targets - counts["correct"],
        confusions=[
            (names[true], names[predicted], count)
            for (true, predicted), count in pairs.most_common(_LARGEST_CONFUSIONS)
        ],
        average_precision=average_precision,
        costs=costs,
    )


def best_threshold(scores: np.ndarray, correct: np.ndarray, counted: np.ndarray, targets: int) -> float:
    """The score threshold with the best F1 = 2 · correct / (detections + objects); the highest if several are equal, 0
    without detections. The arguments (D,) are in descending order of score."""
    found, all_counted = np.cumsum(correct), np.cumsum(counted)
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]  # equal scores stay together
    f1 = np.where(last_of_score, 2 * found / np.maximum(all_counted + targets, 1), -1.0)
    return float(scores[f1.argmax()]) if len(scores) else 0.0


def tide_costs(outcomes: Outcomes, classes: int) -> tuple[float | None, dict[str, float]]:
    """AP at IoU 0.5, and what each kind of mistake takes from it (dAP), 0–1.

    Repairs, as in tidecv: a localisation or confusion mistake becomes a find of the object that it is about, if no
    detection finds that object and no mistake of these two kinds with a better score is about it; all other mistakes of
    the kind are removed. A missed object, that is one with neither a find nor such a mistake, is removed.

    Unlike tidecv, which counts a class that has detections but no objects with AP 0, the mean is over the classes with
    objects, as in COCO's AP.
    """
    found, ignored, kinds = outcomes.correct, outcomes.ignored, outcomes.kinds
    targets = outcomes.targets_by_class(classes)
    present = targets > 0
    if not present.any():
        return None, {}
    repairable = np.flatnonzero(
        ((kinds == LOCALISATION) | (kinds == CONFUSION)) & (outcomes.found_by[outcomes.about] < 0)
    )
    first = np.full(len(outcomes.targets), len(kinds))  # for each object the best-scored mistake about it
    np.minimum.at(first, outcomes.about[repairable], repairable)
    repaired = np.zeros(len(kinds), dtype=bool)
    repaired[first[first < len(kinds)]] = True

    def ap(kept: np.ndarray, correct: np.ndarray, own: np.ndarray, number: np.ndarray) -> float:
        values = average_precision_by_class(correct[kept], outcomes.scores[kept], own[kept], number)
        # a class all of whose objects are removed has AP 0 if it has detections, else it is left out
        values = np.where(np.isnan(values) & (np.bincount(own[kept], minlength=classes) > 0), 0.0, values)[present]
        return float(np.nanmean(values)) if not np.isnan(values).all() else 0.0

    average_precision = ap(~ignored, found, outcomes.classes, targets)
    costs = {}
    for number, kind in enumerate(KINDS):
        if number == CORRECT:
            continue
        of_kind = kinds == number
        fixed = of_kind & repaired
        about = np.where(fixed, outcomes.object_classes[np.maximum(outcomes.about, 0)] if len(first) else 0, 0)
        own = np.where(fixed, about, outcomes.classes)
        kept = np.where(of_kind, fixed, ~ignored)
        costs[kind] = max(0.0, ap(kept, found | fixed, own, targets) - average_precision)
    missed = outcomes.targets & (outcomes.found_by < 0) & (first == len(kinds))
    left = targets - np.bincount(outcomes.object_classes[missed], minlength=classes)
    costs[MISSED] = max(0.0, ap(~ignored, found, outcomes.classes, left) - average_precision)
    return average_precision, costs


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "    —"
