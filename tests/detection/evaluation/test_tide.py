"""The kinds of mistake and what they cost, beside tidecv 1.0.1, the reference implementation of TIDE.

Its figures on the same detections are kept here; where tidecv is installed it is asked again. It takes recall levels as
k / 100, COCO as linspace(0, 1, 101), which differ in the last bit; with its levels the figures agree to rounding.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from detection.evaluation import precision_recall
from detection.evaluation.average_precision import average_precision
from detection.evaluation.error_analysis import analyse_errors
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.outcomes import outcomes_of
from tests.detection.evaluation.made_detections import as_results, loaded, made_detections, made_ground_truth

# (seed, with crowd regions, probability of each fault) → tidecv's AP at IoU 0.5 and dAP of each kind
TIDECV: dict[tuple[int, bool, float], dict[str, float]] = {
    (0, False, 0.2): {
        "AP": 0.823105876555,
        "confusion": 0.054870524695,
        "localisation": 0.020978306884,
        "both": 0.025424560739,
        "duplicate": 0.017489973485,
        "background": 0.003296605152,
        "missed": 0.027116047471,
    },
    (1, True, 0.3): {
        "AP": 0.818982773143,
        "confusion": 0.055530768854,
        "localisation": 0.024050152744,
        "both": 0.006269957270,
        "duplicate": 0.012359071230,
        "background": 0.002954235881,
        "missed": 0.042877319293,
    },
    (2, False, 0.6): {
        "AP": 0.666775296962,
        "confusion": 0.095673151580,
        "localisation": 0.053333434898,
        "both": 0.035349513122,
        "duplicate": 0.020002357602,
        "background": 0.008471965501,
        "missed": 0.012281161655,
    },
    (3, True, 0.3): {
        "AP": 0.659593203654,
        "confusion": 0.118761143216,
        "localisation": 0.015466052354,
        "both": 0.031728380818,
        "duplicate": 0.021374689426,
        "background": 0.004667063217,
        "missed": 0.020433935923,
    },
    (4, True, 0.05): {
        "AP": 0.967211990757,
        "confusion": 0.013445226768,
        "localisation": 0.004416765586,
        "both": 0.001041646169,
        "duplicate": 0.007784505316,
        "background": 0.000097386788,
        "missed": 0.006092916984,
    },
}
KINDS = {
    "Cls": "confusion", "Loc": "localisation", "Both": "both",
    "Dupe": "duplicate", "Bkg": "background", "Miss": "missed",
}  # fmt: skip


def case(seed: int, crowds: bool, faults: float) -> tuple[dict[str, Any], np.ndarray]:
    content = made_ground_truth(seed, crowds=crowds)
    return content, made_detections(content, seed, faults=faults)


def ours(content: dict[str, Any], rows: np.ndarray) -> dict[str, float]:
    truth = loaded(content)
    analysis = analyse_errors(truth, outcomes_of(truth, rows), score_threshold=0.0)
    assert analysis.average_precision is not None
    return {"AP": analysis.average_precision, **analysis.costs}


def tidecv(content: dict[str, Any], rows: np.ndarray) -> dict[str, float]:
    module = pytest.importorskip("tidecv", reason="TIDECV IS NOT INSTALLED: only its kept figures were compared with")
    truth, found = (module.Data(name, max_dets=100_000) for name in ("truth", "found"))
    for one in content["annotations"]:
        add = truth.add_ignore_region if one["iscrowd"] else truth.add_ground_truth
        add(one["image_id"], one["category_id"], one["bbox"])
    for entry in as_results(rows):
        found.add_detection(entry["image_id"], entry["category_id"], entry["score"], entry["bbox"])
    run = module.TIDE().evaluate(truth, found, mode=module.TIDE.BOX)
    costs = {KINDS[kind.short_name]: cost / 100 for kind, cost in run.fix_main_errors().items()}
    return {"AP": run.ap / 100, **costs}


@pytest.fixture(autouse=True)
def tidecvs_recall_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_recall, "RECALL_LEVELS", np.arange(101) / 100)


@pytest.mark.parametrize("known", TIDECV, ids=str)
def test_costs_are_tidecvs(known: tuple[int, bool, float]) -> None:
    assert ours(*case(*known)) == pytest.approx(TIDECV[known], abs=1e-9)


@pytest.mark.parametrize("known", TIDECV, ids=str)
def test_the_kept_figures_are_those_of_the_installed_tidecv(known: tuple[int, bool, float]) -> None:
    assert tidecv(*case(*known)) == pytest.approx(TIDECV[known], abs=1e-9)


def test_the_ap_before_repairs_is_cocos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    content, rows = case(3, True, 0.3)
    figures = average_precision(loaded(content), rows).figures
    assert ours(content, rows)["AP"] == pytest.approx(figures["AP50"], abs=1e-12)


def test_a_class_without_objects_does_not_count() -> None:
    """As in COCO's AP, and unlike tidecv."""
    content, rows = case(1, False, 0.2)
    bird = content["categories"][2]["id"]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != bird]
    without = rows[rows[:, 6] != bird]
    assert ours(content, rows)["AP"] == pytest.approx(ours(content, without)["AP"])


def test_nothing_found_and_nothing_to_find() -> None:
    content, rows = case(1, False, 0.2)
    nothing = ours(content, rows[:0])
    assert nothing["AP"] == 0.0
    assert sum(nothing.values()) == 0.0  # with all objects removed no class is left to gain from
    truth: GroundTruth = loaded({**content, "annotations": []})
    analysis = analyse_errors(truth, outcomes_of(truth, rows))
    assert (analysis.average_precision, analysis.costs) == (None, {})
    assert json.loads(json.dumps(analysis.to_dict()))["objects"] == 0
