"""What the report says to do next, where something is wrong on purpose: the sentence must name it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import detection.report.advice as advice_module
from detection.evaluation.average_precision import average_precision
from detection.evaluation.coco_parameters import IOU_THRESHOLDS
from detection.evaluation.proposal_share import Coverage, ProposalShare, proposal_share
from detection.experiment import class_rates
from detection.experiment.analysis import analyse
from detection.report import advice_on_data, advice_on_mistakes, advice_on_proposals
from detection.report.advice import MOST, advice
from detection.report.seen import LIMITS, RarerLabels, Seen
from tests.detection.evaluation.made_detections import loaded, made_detections, made_ground_truth

RULES_OF = (advice_on_data, advice_on_mistakes, advice_on_proposals)


def said(
    content: dict[str, Any],
    rows: np.ndarray,
    share: ProposalShare | None = None,
    shared: tuple[str, ...] = (),
    curves: dict[str, list[tuple[float, float]]] | None = None,
    on_objects: np.ndarray | None = None,
    settings: dict[str, Any] | None = None,
) -> list[str]:
    truth = loaded(content)
    figures = average_precision(truth, rows)
    analysis = analyse(truth, rows, figures, share, on_objects).content
    return advice(Seen(figures.to_dict(), analysis, shared, curves or {}, settings or {}))


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return made_ground_truth(11, images=100)


@pytest.fixture(scope="module")
def rows(content: dict[str, Any]) -> np.ndarray:
    return made_detections(content, 11, faults=0.03)


def test_of_a_good_detector_nothing_stands_out(content: dict[str, Any], rows: np.ndarray) -> None:
    assert said(content, rows)[0].startswith("Nothing stands out: AP@0.5 is 0.9")


def test_half_of_the_labels_of_a_class_removed(content: dict[str, Any], rows: np.ndarray) -> None:
    dog = content["categories"][1]["id"]
    dogs = [one["id"] for one in content["annotations"] if one["category_id"] == dog]
    kept = [one for one in content["annotations"] if one["id"] not in dogs[::2]]
    first = said({**content, "annotations": kept}, rows)[0]
    assert "confident detections of dog lie where nothing is annotated: labels of dog are probably missing" in first
    assert "label_suggestions.json" in first


def test_names_shuffled(content: dict[str, Any], rows: np.ndarray) -> None:
    shuffled = rows.copy()
    cat, dog, bird = (category["id"] for category in content["categories"])
    for one, other in ((cat, dog), (dog, bird), (bird, cat)):
        shuffled[rows[:, 6] == one, 6] = other
    first = said(content, shuffled)[0]
    assert "objects of cat are detected as dog" in first
    assert "objects of dog are detected as bird" in first
    assert "they look exchanged" in first
    two = rows.copy()
    two[rows[:, 6] == cat, 6], two[rows[:, 6] == dog, 6] = dog, cat
    first = said(content, two)[0]
    assert "objects of cat are detected as dog" in first
    assert "bird" not in first


def test_one_class_often_taken_for_another(content: dict[str, Any], rows: np.ndarray) -> None:
    cat, dog, _ = (category["id"] for category in content["categories"])
    confused = rows.copy()
    confused[np.flatnonzero(rows[:, 6] == cat)[::4], 6] = dog
    text = " ".join(said(content, confused))
    assert "% of the mistakes take cat for dog" in text
    assert "take dog for cat" not in text
    assert "Detections of the wrong class cost" in text


def share_of(
    content: dict[str, Any],
    found: np.ndarray,
    ideal: float,
    *,
    scale: float = 1.0,
    half: np.ndarray | None = None,
    anchors: np.ndarray | None = None,
) -> ProposalShare:
    """scale: of the network's input. half, anchors: the objects that the better half of the proposals, and an anchor
    covers; all that are found, and all."""
    areas = np.array([one["area"] for one in content["annotations"]])
    overlaps, of_half = np.where(found, 0.9, 0.3), np.where(found if half is None else half, 0.9, 0.3)
    of_anchors = np.where(anchors, 0.9, 0.3) if anchors is not None else np.full(len(areas), 0.9)
    coverage = Coverage(areas, scale * np.sqrt(areas), overlaps, of_half, of_anchors)
    return proposal_share(coverage, 300, {"AP": 0.5, "AP50": 0.8}, {"AP": 0.6, "AP50": ideal})


def test_small_objects_without_proposals(content: dict[str, Any]) -> None:
    """As with anchors that are too large: the RPN proposes nothing for small objects."""
    draw = np.random.default_rng(0).uniform(size=len(content["annotations"]))
    small = np.array([one["area"] < 32**2 for one in content["annotations"]])
    seen = ~small | (draw < 0.5)
    found = {one["id"] for one, is_seen in zip(content["annotations"], seen, strict=True) if is_seen}
    rows = made_detections(content, 11, faults=0.03, find=lambda one: one["id"] in found)
    alone = " ".join(said(content, rows))
    assert "for objects of 16–32 pixels" in alone
    assert "larger images or smaller anchors" in alone
    first = said(content, rows, share_of(content, seen, 0.95))[0]
    assert first.startswith("Recall of the proposals is 0.")
    assert "for objects below 16 pixels" in first
    assert "for objects of 16–32 pixels" in first
    assert "32–64" not in first
    assert "larger images (data.shorter_sides and data.test_shorter_side)" in first
    assert "anchor" not in first, "they fit"
    text = " ".join(said(content, rows, share_of(content, seen, 0.95)))
    assert "With the objects themselves as proposals AP@0.5 would be 0.950 instead of 0.800; proposals cover" in text
    enlarged = said(content, rows, share_of(content, seen, 0.95, scale=4.0))[0]
    assert "train the RPN longer" in enlarged, "the network's input is what counts"


def test_large_objects_without_proposals_need_other_anchors(content: dict[str, Any], rows: np.ndarray) -> None:
    large = np.array([one["area"] >= 96**2 for one in content["annotations"]])
    first = said(content, rows, share_of(content, ~large, 0.9, anchors=~large))[0]
    assert "for objects of 96–192 pixels" in first
    assert "100% of them fit no anchor by IoU 0.5" in first
    assert "other anchors (rpn.anchor_sizes" in first
    assert "larger images" not in first
    fitting = said(content, rows, share_of(content, ~large, 0.9))[0]
    assert "anchors fit and more proposals add little: train the RPN longer" in fitting


def test_too_few_proposals(content: dict[str, Any], rows: np.ndarray) -> None:
    draw = np.random.default_rng(0).uniform(size=len(content["annotations"]))
    share = share_of(content, draw < 0.7, 0.95, half=draw < 0.5, scale=4.0)
    first = said(content, rows, share, settings={"rpn.test_proposals.after_nms": 30})[0]
    assert "classify more proposals (rpn.test_proposals.after_nms, now 30)" in first
    assert "fit no anchor" not in first


def test_what_duplicates_cost_is_not_the_rpn_s(content: dict[str, Any], rows: np.ndarray) -> None:
    """With the objects as proposals there are no duplicates, so that AP rises, though the proposals cover all."""
    everything = np.ones(len(content["annotations"]), dtype=bool)
    text = " ".join(said(content, np.concatenate([rows, rows]), share_of(content, everything, 0.99)))
    assert "a lower fast_rcnn.nms_iou" in text
    assert "the RPN" not in text


def test_boxes_that_mean_something_else(content: dict[str, Any], rows: np.ndarray) -> None:
    corners_for_centres = rows.copy()
    corners_for_centres[:, 1:3] -= 0.3 * rows[:, 3:5]
    first = said(content, corners_for_centres)[0]
    assert "lie to the left of the annotated boxes by 0.30 of their width and above them by 0.30 of their" in first
    assert len(said(content, corners_for_centres)) == 1, "nothing else is said of what this explains"
    wide = rows.copy()
    wide[:, 1], wide[:, 3] = rows[:, 1] - 0.3 * rows[:, 3], 1.6 * rows[:, 3]
    first = said(content, wide)[0]
    assert "Detections are wider than the annotated boxes by a factor of 1.6" in first
    assert "lie " not in first.partition(":")[0]


def test_boxes_that_scatter_are_not_called_moved(content: dict[str, Any], rows: np.ndarray) -> None:
    scattered = rows.copy()
    draw = np.random.default_rng(0).normal(scale=0.25, size=(len(rows), 2))
    scattered[:, 1:3] += draw * rows[:, 3:5]
    assert not any("do not mean the same by a box" in one for one in said(content, scattered))


def test_boxes_where_nothing_is(content: dict[str, Any], rows: np.ndarray) -> None:
    """Doubtful if the classifier sees nothing in them either; otherwise it was the RPN that overlooked them."""
    everything = np.ones(len(content["annotations"]), dtype=bool)
    ids = [one["id"] for one in content["annotations"] if one["area"] >= 32**2]
    lost = set(ids[::12])
    seen = made_detections(content, 11, faults=0.03, find=lambda one: one["id"] not in lost)
    words = "though most boxes of their sizes are found: look whether there is an object in these boxes"
    share = share_of(content, everything, 0.9)
    assert words in said(content, seen, share, on_objects=seen)[0]
    assert "whether there is an object" not in " ".join(said(content, seen, share, on_objects=rows))


def test_a_detector_that_overlooks_most_says_nothing_about_labels(content: dict[str, Any], rows: np.ndarray) -> None:
    dog = content["categories"][1]["id"]
    of_dog = np.flatnonzero(rows[:, 6] == dog)
    weak = rows.copy()
    weak[of_dog[: len(of_dog) * 2 // 3], 1] += 3000.0  # where nothing is
    assert not any("labels of dog are probably missing" in one for one in said(content, weak))


def test_one_place_without_a_label_is_one_suspicion(content: dict[str, Any], rows: np.ndarray) -> None:
    stray = rows[:4].copy()
    stray[:, 1] += 3000.0
    stray[:, 5] = 0.999
    assert not any("probably missing" in one for one in said(content, np.concatenate([rows, *[stray] * 20])))


def test_what_is_set_already_is_not_advised(content: dict[str, Any], rows: np.ndarray) -> None:
    poor = rows.copy()
    poor[::3, 1:3] += np.where(np.arange(len(poor[::3])) % 2, 0.3, -0.3)[:, None] * poor[::3, 3:5]
    assert "RoIAlign" in " ".join(said(content, poor))
    assert "RoIAlign" not in " ".join(said(content, poor, settings={"fast_rcnn.pooling": "align"}))


def test_proposals_that_are_good_enough(content: dict[str, Any]) -> None:
    rows = made_detections(content, 11, faults=0.5)
    everything = np.ones(len(content["annotations"]), dtype=bool)
    text = " ".join(said(content, rows, share_of(content, everything, 0.81)))
    assert "Recall of the proposals" not in text
    assert "what is lost, the Fast R-CNN loses" in text


def test_duplicates_and_poor_boxes(content: dict[str, Any], rows: np.ndarray) -> None:
    twice = np.concatenate([rows, rows])
    assert "lower fast_rcnn.nms_iou" in " ".join(said(content, twice))
    shifted = rows.copy()
    some = slice(None, None, 3)
    shifted[some, 1] += 0.5 * shifted[some, 3]
    assert "Boxes that overlap their object by less than 0.5 cost" in " ".join(said(content, shifted))


def test_a_class_that_is_hardly_found(content: dict[str, Any], rows: np.ndarray) -> None:
    bird = content["categories"][2]["id"]
    lost = np.flatnonzero(rows[:, 6] == bird)[::4]
    few = rows[(rows[:, 6] != bird) | np.isin(np.arange(len(rows)), lost)]
    text = " ".join(said(content, few))
    assert "AP@0.5 of bird 0." in text
    assert "more training examples of this class" in text


def test_scores_that_are_too_high(content: dict[str, Any]) -> None:
    rows = made_detections(content, 11, faults=0.5)
    rows[:, 5] = 0.9 + rows[:, 5] / 10
    assert "Scores are higher by 0." in " ".join(said(content, rows))


def test_labels_that_are_rarer_in_a_split(content: dict[str, Any], rows: np.ndarray) -> None:
    truth = loaded(content)
    figures = average_precision(truth, rows)
    rarer = [RarerLabels("cat", 0.5, 1.02), RarerLabels("dog", 2.0, 0.9), RarerLabels("bird", 0.25, 1.0)]
    first, second, *_ = advice(Seen(figures.to_dict(), analyse(truth, rows, figures).content, rarer=rarer))
    assert first.startswith(
        "An image has 0.50 objects of cat in train, and 1.02 in test; an image has 0.25 objects of bird in train, and "
        "1.00 in test, which is more than chance: labels of cat, bird are probably missing in train"
    )
    assert second.startswith("An image has 0.90 objects of dog in test, and 2.00 in train")


def test_shared_images_come_first(content: dict[str, Any], rows: np.ndarray) -> None:
    first = said(content, rows, shared=("a.jpg", "b.jpg"))[0]
    assert first.startswith("2 of 100 test images also stand in train (the first: a.jpg)")


def test_a_training_that_ended_too_early(content: dict[str, Any], rows: np.ndarray) -> None:
    rising = {"fastrcnn AP": [(step, step / 1000) for step in range(100, 1001, 100)]}
    assert "AP was still rising" in " ".join(said(content, rows, curves=rising))
    flat = {"fastrcnn AP": [(step, min(step, 500) / 1000) for step in range(100, 1001, 100)]}
    assert "rising" not in " ".join(said(content, rows, curves=flat))


def test_a_detector_that_finds_nothing_is_told_nothing_else(content: dict[str, Any], rows: np.ndarray) -> None:
    (only,) = said(content, rows[:0])
    assert "finds next to nothing" in only
    assert said({**content, "annotations": []}, rows) == []


def test_where_only_the_proposals_are_missing_they_are_named(content: dict[str, Any], rows: np.ndarray) -> None:
    draw = np.random.default_rng(0).uniform(size=len(content["annotations"]))
    found = said(content, rows[:0], share_of(content, draw < 0.02, 0.95, half=draw < 0.01, scale=4.0))
    assert found[0].startswith("Recall of the proposals is 0.0")
    assert "next to nothing" not in " ".join(found)
    (only,) = said(content, rows[:0], share_of(content, draw < 0.02, 0.4, half=draw < 0.01, scale=4.0))
    assert "finds next to nothing" in only


def test_few_objects(rows: np.ndarray) -> None:
    content = made_ground_truth(1, images=2)
    assert "classes have fewer than 10 test objects" in " ".join(said(content, made_detections(content, 1)))


def test_the_list_is_short_and_every_limit_is_used(content: dict[str, Any]) -> None:
    rules = [Path(str(module.__file__)) for module in (advice_module, *RULES_OF, class_rates)]
    source = "".join(path.read_text(encoding="utf-8") for path in rules)
    assert all(f'LIMITS["{name}"]' in source for name in LIMITS)
    rows = made_detections(content, 11, faults=0.9)
    rows[:, 5] = 1.0
    nothing = np.zeros(len(content["annotations"]), dtype=bool)
    assert len(said(content, rows, share_of(content, nothing, 1.0), shared=("a.jpg",))) <= MOST
    assert len(IOU_THRESHOLDS) == 10


def test_an_analysis_of_an_earlier_version_names_the_command_that_renews_it(
    content: dict[str, Any], rows: np.ndarray
) -> None:
    """Whichever key is missing, at any depth, there is a sentence and no KeyError."""
    truth = loaded(content)
    figures = average_precision(truth, rows)
    share = share_of(content, np.ones(len(content["annotations"]), dtype=bool), 0.95)
    analysis = json.loads(json.dumps(analyse(truth, rows, figures, share, rows).content))
    whole = advice(Seen(figures.to_dict(), analysis))
    parts = [*analysis, *(f"{one}.{key}" for one in ("label_checks", "proposal_share") for key in analysis[one])]
    parts += [f"label_checks.classes.{key}" for key in analysis["label_checks"]["classes"][0]]
    told = {}
    for part in parts:
        *ways, last = part.split(".")
        earlier = copy.deepcopy(analysis)
        owners: list[dict[str, Any]] = [earlier]
        for way in ways:
            owners = [one for owner in owners for one in (owner[way] if way == "classes" else [owner[way]])]
        for owner in owners:
            del owner[last]
        told[part] = advice(Seen(figures.to_dict(), earlier))
    renewed = {part for part, sentences in told.items() if "an earlier version" in sentences[0]}
    for part in renewed:
        assert len(told[part]) == 1
        assert f"lacks {part}" in told[part][0]
        assert "tools/eval_coco.py --weights" in told[part][0]
    assert {"box_offsets", "confusion_of_best", "label_checks.boxes_classified", "proposal_share.sides"} <= renewed
    # what no rule reads changes nothing
    assert set(parts) - renewed == {"proposal_share", "proposal_share.proposals", "label_checks.classes.other"}
    assert told["label_checks.classes.other"] == told["proposal_share.proposals"] == whole
