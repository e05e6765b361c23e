"""Detections and ground truth → what the report shows beyond COCO's figures, also as one dict for `analysis.json`.

The dict: `errors`, `thresholds`, `calibration` (with `calibration_from`), `confusion_matrix`, `attributes`,
`box_offsets`, `precision`, `precision_of_classes`, `confusion_of_best`, `label_checks`, and `proposal_share` if it was
measured. Each is described where it is computed, in `detection.evaluation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detection.evaluation.average_precision import AveragePrecision
from detection.evaluation.box_offsets import box_offsets
from detection.evaluation.calibration import calibration
from detection.evaluation.confusion_matrix import confusion_matrix
from detection.evaluation.error_analysis import ErrorAnalysis, analyse_errors
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.label_checks import (
    Suspicion,
    confident_detections,
    suspicious_labels,
    unlabelled_places,
)
from detection.evaluation.object_attributes import ATTRIBUTES, by_attribute
from detection.evaluation.outcomes import CONFUSION, Outcomes, outcomes_of
from detection.evaluation.precision_recall import precision_by_class
from detection.evaluation.proposal_share import ProposalShare
from detection.evaluation.score_thresholds import ScoreThresholds, score_thresholds

CALIBRATION_FROM = 0.05  # the lowest score of a detector's detections by default (fast_rcnn.min_score)
_MOST_CURVES = 4  # classes with a precision-recall curve of their own


@dataclass(frozen=True)
class Analysis:
    """The outcomes, what is drawn from them, and everything as plain numbers (`content`)."""

    outcomes: Outcomes
    errors: ErrorAnalysis
    thresholds: ScoreThresholds
    suspicions: list[Suspicion]
    content: dict[str, Any]


def analyse(
    ground_truth: GroundTruth,
    detections: np.ndarray,
    figures: AveragePrecision,
    share: ProposalShare | None = None,
    on_objects: np.ndarray | None = None,
) -> Analysis:
    """The analysis of detections (D, 7), whose figures are `figures`. on_objects: detections (D', 7) whose proposals
    were the objects' own boxes, and `share` what they tell of the proposals."""
    outcomes = outcomes_of(ground_truth, detections, limit=figures.limit)
    classes = len(ground_truth.category_ids)
    thresholds = score_thresholds(outcomes, classes)
    errors = analyse_errors(ground_truth, outcomes, score_threshold=thresholds.overall)
    ideal = None if on_objects is None else outcomes_of(ground_truth, on_objects, limit=figures.limit)
    suspicions = suspicious_labels(ground_truth, outcomes, ideal)
    content: dict[str, Any] = {
        "errors": errors.to_dict(),
        "thresholds": thresholds.to_dict(),
        "calibration": calibration(outcomes, lowest_score=CALIBRATION_FROM).to_dict(),
        "calibration_from": CALIBRATION_FROM,
        "confusion_matrix": confusion_matrix(outcomes, classes, thresholds.overall).tolist(),
        "attributes": {
            name: {"meaning": ATTRIBUTES[name][0], "bins": [one.to_dict() for one in bins]}
            for name, bins in by_attribute(ground_truth, outcomes).items()
        },
        "box_offsets": box_offsets(ground_truth, outcomes).to_dict(),
        "precision": figures.precision,
        "precision_of_classes": _curves_of_classes(ground_truth, outcomes),
        "confusion_of_best": confusion_matrix(outcomes, classes, _score_of_as_many(outcomes)).tolist(),
        "label_checks": _label_counts(suspicions, outcomes, classes) | {"boxes_classified": ideal is not None},
        "proposal_share": None if share is None else share.to_dict(),
    }
    return Analysis(outcomes, errors, thresholds, suspicions, content)


def _score_of_as_many(outcomes: Outcomes) -> float:
    """The score that as many detections reach as there are objects; where next to nothing is correct, as with exchanged
    names, a threshold by F1 would leave hardly any."""
    scores = outcomes.scores[: max(1, int(outcomes.targets.sum()))]
    return float(scores[-1]) if len(scores) else 0.0


def _curves_of_classes(ground_truth: GroundTruth, outcomes: Outcomes) -> dict[str, list[float]]:
    """Precision at the 101 recall levels at IoU 0.5 of the classes with the most targets, if there are several."""
    targets = outcomes.targets_by_class(len(ground_truth.category_ids))
    shown = np.argsort(-targets, kind="stable")[:_MOST_CURVES]
    shown = shown[targets[shown] > 0]
    if len(shown) < 2:
        return {}
    kept = outcomes.counted
    precision = precision_by_class(outcomes.correct[kept], outcomes.scores[kept], outcomes.classes[kept], targets)
    return {ground_truth.category_names[k]: precision[k].tolist() for k in shown.tolist()}


def _label_counts(suspicions: list[Suspicion], outcomes: Outcomes, classes: int) -> dict[str, Any]:
    """By class: confident detections (see `label_checks`) that are correct, that lie where nothing is annotated (one a
    place), and on an object of another class; and the objects that detections of any score find. And the number of
    objects that nothing finds."""
    sure = confident_detections(outcomes, classes)
    chosen = {
        "confident_correct": outcomes.classes[sure & outcomes.correct],
        "missing": outcomes.classes[unlabelled_places(outcomes, sure)],
        "other": outcomes.classes[sure & (outcomes.kinds == CONFUSION)],
        "found": outcomes.classes[outcomes.correct],
    }
    counts = {name: np.bincount(own, minlength=classes).tolist() for name, own in chosen.items()}
    return {
        "classes": [{name: own[k] for name, own in counts.items()} for k in range(classes)],
        "unfound": sum(1 for one in suspicions if one.kind == "unfound"),
    }
