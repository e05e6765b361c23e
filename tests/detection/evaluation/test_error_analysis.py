"""Kinds of error on cases made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.evaluation.error_analysis import ErrorAnalysis, analyse_errors
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.outcomes import KINDS, outcomes_of
from detection.experiment.ground_truth_loading import load_ground_truth
from detection.experiment.results_file import read_results

CAT, DOG = 5, 8


def ground_truth(*objects: tuple[int, int, list[float], int]) -> GroundTruth:
    """Objects as (image id, category id, [x, y, w, h], crowd); images 1 and 2."""
    return load_ground_truth(
        {
            "images": [{"id": 1}, {"id": 2}],
            "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "dog"}],
            "annotations": [
                {"id": 1 + number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
                for number, (image, category, box, crowd) in enumerate(objects)
            ],
        }
    )


def analyse(truth: GroundTruth, *rows: list[float], threshold: float | None = 0.0) -> ErrorAnalysis:
    return analyse_errors(truth, outcomes_of(truth, np.array(rows).reshape(-1, 7)), score_threshold=threshold)


def only(outcome: ErrorAnalysis, kind: str) -> bool:
    return outcome.counts == {name: int(name == kind) for name in KINDS}


TRUTH = ground_truth((1, CAT, [0, 0, 100, 100], 0), (2, DOG, [0, 0, 100, 100], 0))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ([1, 0, 0, 100, 100, 0.9, CAT], "correct"),
        ([1, 0, 0, 100, 50, 0.9, CAT], "correct"),  # IoU 0.5 exactly
        ([1, 0, 0, 100, 49, 0.9, CAT], "localisation"),
        ([1, 0, 0, 100, 10, 0.9, CAT], "localisation"),  # IoU 0.1 exactly
        ([1, 0, 0, 100, 9, 0.9, CAT], "background"),
        ([1, 0, 0, 100, 90, 0.9, DOG], "confusion"),
        ([1, 0, 0, 100, 40, 0.9, DOG], "both"),  # wrong class and poor box
        ([1, 0, 0, 100, 9, 0.9, DOG], "background"),
        ([1, 300, 300, 10, 10, 0.9, CAT], "background"),
        ([2, 0, 0, 100, 100, 0.9, CAT], "confusion"),
    ],
)
def test_one_detection(row: list[float], kind: str) -> None:
    outcome = analyse(TRUTH, row)
    assert only(outcome, kind)
    assert outcome.missed == (1 if kind == "correct" else 2)
    assert outcome.objects == 2


def test_the_better_scored_is_correct_and_the_other_a_duplicate() -> None:
    rows = [[1, 0, 0, 100, 95, 0.5, CAT], [1, 0, 0, 100, 80, 0.9, CAT]]
    assert analyse(TRUTH, *rows).counts == {**dict.fromkeys(KINDS, 0), "correct": 1, "duplicate": 1}
    assert only(analyse(TRUTH, *rows, threshold=0.7), "correct")


def test_two_objects_close_together_are_both_found() -> None:
    truth = ground_truth((1, CAT, [0, 0, 100, 100], 0), (1, CAT, [0, 10, 100, 100], 0))
    outcome = analyse(truth, [1, 0, 4, 100, 100, 0.9, CAT], [1, 0, 3, 100, 100, 0.8, CAT])
    assert outcome.counts["correct"] == 2
    assert outcome.missed == 0


def test_crowds_are_no_targets_and_what_lies_in_them_does_not_count() -> None:
    truth = ground_truth((1, CAT, [0, 0, 200, 200], 1))
    outcome = analyse(truth, [1, 10, 10, 20, 20, 0.9, CAT], [1, 10, 10, 20, 20, 0.9, DOG], [2, 0, 0, 5, 5, 0.9, CAT])
    assert outcome.ignored == 1
    assert outcome.counts == {**dict.fromkeys(KINDS, 0), "background": 2}
    assert (outcome.objects, outcome.missed, outcome.recall) == (0, 0, None)


def test_confusions_are_named() -> None:
    outcome = analyse(TRUTH, [1, 0, 0, 100, 90, 0.9, DOG], [1, 0, 0, 100, 95, 0.8, DOG], [2, 0, 0, 100, 95, 0.8, CAT])
    assert outcome.confusions == [("cat", "dog", 2), ("dog", "cat", 1)]
    assert "cat taken for dog: 2" in outcome.table()


def test_threshold_with_the_best_f1() -> None:
    rows = [[1, 0, 0, 100, 100, 0.9, CAT], [2, 0, 0, 100, 100, 0.6, DOG]]
    rows += [[2, 300, 300, 10, 10, 0.6 - 0.1 * number, CAT] for number in range(1, 4)]
    outcome = analyse(TRUTH, *rows, threshold=None)
    assert outcome.score_threshold == 0.6
    assert (outcome.precision, outcome.recall) == (1.0, 1.0)
    assert analyse(TRUTH, *rows, threshold=0.0).precision == pytest.approx(0.4)


def test_the_threshold_does_not_part_equal_scores() -> None:
    """Between the two scores of 0.5 F1 would be 1, but no threshold lies there."""
    rows = [[1, 0, 0, 100, 100, 0.9, CAT], [2, 0, 0, 100, 100, 0.5, DOG]]
    rows += [[1, 300, 300, 10, 10, 0.5, CAT]] * 5
    assert analyse(TRUTH, *rows, threshold=None).score_threshold == 0.9


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_empty_detections(threshold: float | None) -> None:
    outcome = analyse(TRUTH, threshold=threshold)
    assert outcome.counts == dict.fromkeys(KINDS, 0)
    assert outcome.missed == 2
    assert outcome.precision is None
    assert json.loads(json.dumps(outcome.to_dict()))["recall"] == 0.0
    assert "—" in outcome.table()


def test_not_finite_is_refused() -> None:
    with pytest.raises(UserError, match="image id 1"):
        analyse(TRUTH, [1, 0, 0, 10, 10, np.nan, CAT])


def test_every_detection_of_the_reference_has_one_kind(shared_data: Path) -> None:
    folder = shared_data / "coco_eval_reference"
    truth = load_ground_truth(folder / "instances_val2014_100.json")
    detections = read_results(folder / "instances_val2014_fakebbox100_results.json")
    outcome = analyse_errors(truth, outcomes_of(truth, detections), score_threshold=0.0)
    assert sum(outcome.counts.values()) + outcome.ignored == len(detections)
    assert outcome.missed + outcome.counts["correct"] == outcome.objects
