"""Thresholds, calibration, confusion matrix, attributes, suspicious labels, bootstrap: each beside a plain count."""

from __future__ import annotations

import contextlib
import doctest
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.evaluation import groups, precision_recall
from detection.evaluation.average_precision import average_precision
from detection.evaluation.bootstrap import bootstrap, draw_images, interval
from detection.evaluation.calibration import calibration
from detection.evaluation.coco_parameters import AREA_RANGES
from detection.evaluation.confusion_matrix import confusion_matrix
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.label_checks import suspicious_labels
from detection.evaluation.object_attributes import ATTRIBUTES, by_attribute
from detection.evaluation.outcomes import CORRECT, KINDS, Outcomes, outcomes_of
from detection.evaluation.score_thresholds import score_thresholds
from detection.evaluation.stable_matching import pairwise_iou
from tests.detection.evaluation.made_detections import as_results, loaded, made_detections, made_ground_truth

Made = tuple[dict[str, Any], np.ndarray, GroundTruth, Outcomes]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "crowds"])
def made(request: pytest.FixtureRequest) -> Made:
    content = made_ground_truth(7, crowds=request.param)
    rows = made_detections(content, 7, faults=0.4)
    truth = loaded(content)
    return content, rows, truth, outcomes_of(truth, rows)


def corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def test_kinds_are_those_of_a_loop_over_detections(made: Made) -> None:
    """The definition of each kind, one detection after the other; matching by hand, in order of score."""
    _, rows, truth, outcomes = made
    found: set[int] = set()
    order = np.argsort(-rows[:, 5], kind="stable")
    assert outcomes.rows.tolist() == order.tolist()
    for place, row in enumerate(rows[order]):
        in_image = np.flatnonzero((truth.object_image_ids == row[0]) & ~truth.crowds)
        overlaps = pairwise_iou(corners(row[None, 1:5]), corners(truth.boxes[in_image]))[0]
        own = truth.object_category_ids[in_image] == row[6]
        free = [i for i in in_image.tolist() if i not in found]
        takes = [(overlaps[in_image.tolist().index(i)], i) for i in free if truth.object_category_ids[i] == row[6]]
        best = max(takes, default=(0.0, -1))
        same, other = max(overlaps[own], default=0.0), max(overlaps[~own], default=0.0)
        if best[0] >= 0.5:
            found.add(best[1])
            assert outcomes.about[place] == best[1]
            kind = "correct"
        elif 0.1 <= same < 0.5:
            kind = "localisation"
        elif other >= 0.5:
            kind = "confusion"
        elif same >= 0.5:
            kind = "duplicate"
        else:
            kind = "both" if other >= 0.1 else "background"
        assert KINDS[outcomes.kinds[place]] == kind
    assert set(np.flatnonzero(outcomes.found_by >= 0).tolist()) == found


def test_the_best_threshold_is_the_best_of_all(made: Made) -> None:
    _, _, truth, outcomes = made
    result = score_thresholds(outcomes, 3)
    kept = outcomes.counted

    def f1(threshold: float, chosen: np.ndarray, targets: int) -> float:
        at = (outcomes.scores >= threshold) & chosen
        return 2 * int((outcomes.correct & at).sum()) / (int((at & kept).sum()) + targets)

    everything = np.ones(len(kept), dtype=bool)
    targets = outcomes.targets_by_class(3)
    scores = outcomes.scores.tolist()
    assert result.best_f1 == pytest.approx(max(f1(score, everything, int(targets.sum())) for score in scores))
    assert f1(result.overall, everything, int(targets.sum())) == pytest.approx(result.best_f1)
    for k in range(3):
        of_class = outcomes.classes == k
        best = max(f1(score, of_class, int(targets[k])) for score in scores)
        assert result.f1_by_class[k] == pytest.approx(best)
        assert f1(result.by_class[k], of_class, int(targets[k])) == pytest.approx(best)
    for level in (0, 30, 77, 100):
        assert result.f1[level] == pytest.approx(f1(level / 100, everything, int(targets.sum())), abs=1e-12)
    assert truth.category_names == ["cat", "dog", "bird"]


def test_a_class_that_was_never_right_has_the_overall_threshold() -> None:
    content = made_ground_truth(1)
    rows = made_detections(content, 1)
    bird = content["categories"][2]["id"]
    outcomes = outcomes_of(loaded(content), rows[rows[:, 6] != bird])
    result = score_thresholds(outcomes, 3)
    assert result.by_class[2] == result.overall
    assert result.f1_by_class[2] == 0.0
    empty = score_thresholds(outcomes_of(loaded(content), rows[:0]), 3)
    assert (empty.overall, empty.best_f1, empty.precision[0]) == (0.0, 0.0, None)


def test_calibration_of_scores_that_are_probabilities_and_of_others() -> None:
    """Detections that are correct with the probability that the score states."""
    content = made_ground_truth(2, images=200)
    truth = loaded(content)
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=len(truth.boxes))
    moved = truth.boxes + np.where(rng.uniform(size=len(scores)) < scores, 0.0, 2000.0)[:, None] * [1, 0, 0, 0]
    rows = np.column_stack([truth.object_image_ids, moved, scores, truth.object_category_ids])
    good = calibration(outcomes_of(truth, rows))
    assert good.error is not None
    assert good.error < 0.05
    assert sum(good.counts) == len(rows)
    rows[:, 5] = np.sqrt(scores)
    sure = calibration(outcomes_of(truth, rows))
    assert sure.error == pytest.approx(2 / 3 - 1 / 2, abs=0.03)  # the means of √u and of u
    assert sure.bias == pytest.approx(sure.error, abs=0.01)
    assert calibration(outcomes_of(truth, rows), lowest_score=0.9).counts[:9] == [0] * 9
    nothing = calibration(outcomes_of(truth, rows[:0]))
    assert (nothing.error, nothing.correct[0]) == (None, None)


def test_every_object_and_detection_is_in_one_cell_of_the_matrix(made: Made) -> None:
    _, _, _, outcomes = made
    for threshold in (0.0, 0.4, 2.0):
        matrix = confusion_matrix(outcomes, 3, threshold)
        kept = outcomes.counted & (outcomes.scores >= threshold)
        assert matrix[:3].sum(axis=1).tolist() == outcomes.targets_by_class(3).tolist()
        assert matrix[:, :3].sum() == kept.sum()
        assert matrix[3, 3] == 0
        assert np.trace(matrix) == (outcomes.correct & kept).sum()


def test_a_confused_class_is_in_its_cell() -> None:
    content = made_ground_truth(3)
    rows = made_detections(content, 3, faults=0.0)
    cat, dog, _ = (category["id"] for category in content["categories"])
    cats = np.flatnonzero(rows[:, 6] == cat)[:5]
    rows[cats, 6] = dog
    matrix = confusion_matrix(outcomes_of(loaded(content), rows), 3, 0.0)
    assert matrix[0, 1] >= 4  # a cat may lie on a dog that the detection then finds
    assert matrix[1, 0] == 0


def test_attributes_divide_the_objects_and_one_bin_gives_cocos_figure(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows, truth, outcomes = made
    for bins in by_attribute(truth, outcomes).values():
        assert sum(one.objects for one in bins) == outcomes.targets.sum()
        assert sum(one.objects * (one.recall or 0) for one in bins) == pytest.approx((outcomes.found_by >= 0).sum())
    monkeypatch.setitem(ATTRIBUTES, "size", ("", (), ("all",)))
    (everything,) = by_attribute(truth, outcomes)["size"]
    assert everything.average_precision == pytest.approx(average_precision(truth, rows).figures["AP50"], abs=1e-12)


def test_size_bins_are_nearly_cocos_area_ranges(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """COCO matches anew in each range, and an area of exactly 32² is in two ranges."""
    from detection.evaluation import pycocotools_evaluation
    from detection.evaluation.coco_parameters import DETECTION_LIMITS

    _, rows, truth, outcomes = made
    monkeypatch.setitem(ATTRIBUTES, "size", ("", (32, 96), ("small", "medium", "large")))
    precision, _ = pycocotools_evaluation.evaluate(truth, rows, DETECTION_LIMITS)
    for one in by_attribute(truth, outcomes)["size"]:
        values = precision[0, :, :, list(AREA_RANGES).index(one.name)]
        assert one.average_precision == pytest.approx(values[values > -1].mean(), abs=0.01)


def test_crowding_counts_the_other_objects() -> None:
    content = made_ground_truth(1, images=1, objects=0)
    boxes = [[0, 0, 100, 100], [10, 0, 100, 100], [20, 0, 100, 100], [30, 0, 100, 100], [400, 300, 50, 50]]
    content["annotations"] = [
        {"id": i + 1, "image_id": 10, "category_id": 2, "bbox": box, "area": 1, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    truth = loaded(content)
    bins = by_attribute(truth, outcomes_of(truth, np.zeros((0, 7))))["crowding"]
    assert [one.objects for one in bins] == [1, 0, 4]
    assert [one.average_precision for one in bins] == [0.0, None, 0.0]


def test_removed_added_and_changed_labels_are_suspected_first() -> None:
    content = made_ground_truth(5, images=60, objects=4, smallest=40.0)
    rows = made_detections(content, 5, faults=0.05)
    annotations = content["annotations"]
    lost = {annotation["id"] for annotation in annotations[::20]}
    changed = {annotation["id"] for annotation in annotations[5::40]}
    kept = [dict(annotation) for annotation in annotations if annotation["id"] not in lost]
    for annotation in kept:
        if annotation["id"] in changed:
            annotation["category_id"] = {2: 5, 5: 2, 8: 2}[annotation["category_id"]]
    invented = {"id": 9001, "image_id": 12, "category_id": 2, "bbox": [500, 5, 120, 110], "area": 13200, "iscrowd": 0}
    truth = loaded({**content, "annotations": [*kept, invented]})
    found = suspicious_labels(truth, outcomes_of(truth, rows))
    missing = [one for one in found if one.kind == "missing"]
    lost_boxes = np.array([annotation["bbox"] for annotation in annotations if annotation["id"] in lost], dtype=float)
    lost_images = [annotation["image_id"] for annotation in annotations if annotation["id"] in lost]

    def was_lost(image: int, box: tuple[float, ...]) -> bool:
        overlaps = pairwise_iou(corners(np.array([box])), corners(lost_boxes))[0]
        return any(truth.image_ids[image] == own and iou > 0.5 for own, iou in zip(lost_images, overlaps, strict=True))

    assert len(missing) >= 3
    assert all(was_lost(one.image, one.box) for one in missing[:3])
    assert [one.confidence for one in missing] == sorted((one.confidence for one in missing), reverse=True)
    assert len({(one.image, one.box) for one in missing}) == len(missing)
    assert any(one.kind == "unfound" and one.box == (500, 5, 120, 110) for one in found)
    classes = [one for one in found if one.kind == "class"]
    changed_boxes = [annotation["bbox"] for annotation in annotations if annotation["id"] in changed]
    right = sum(truth.boxes[one.object].tolist() in changed_boxes for one in classes)
    assert right >= len(classes) / 2 > 0
    nothing = suspicious_labels(truth, outcomes_of(truth, rows[:0]))
    assert nothing == []


def test_the_objects_own_boxes_decide_where_nothing_is_seen(made: Made) -> None:
    content, rows, _, _ = made
    invented = {"id": 9001, "image_id": 12, "category_id": 2, "bbox": [500, 5, 120, 110], "area": 13200, "iscrowd": 0}
    truth = loaded({**content, "annotations": [*content["annotations"], invented]})
    beside = np.array([[12, 560, 5, 120, 110, 0.3, 2]])  # touches the box and does not find it
    seen, unseen = outcomes_of(truth, np.concatenate([rows, beside])), outcomes_of(truth, rows)

    def suspected(outcomes: Outcomes, on_objects: Outcomes | None) -> bool:
        return any(
            one.kind == "unfound" and one.box == (500, 5, 120, 110)
            for one in suspicious_labels(truth, outcomes, on_objects)
        )

    assert not suspected(seen, None)
    assert suspected(seen, unseen)
    assert not suspected(unseen, seen)


def test_the_bootstrap_s_first_row_is_the_figure_and_draws_are_repeated_images(made: Made) -> None:
    content, rows, truth, _ = made
    counts = draw_images(len(truth.image_ids), draws=40)
    assert counts[0].tolist() == [1] * len(truth.image_ids)
    assert set(counts.sum(axis=1)) == {len(truth.image_ids)}
    draws = bootstrap(truth, rows, counts)
    figures = average_precision(truth, rows)
    for name, figure in (("all", "AP"), ("small", "AP_small"), ("medium", "AP_medium"), ("large", "AP_large")):
        assert draws.by_size[name][0] == pytest.approx(figures.figures[figure], abs=1e-12)
    assert draws.by_class[0].tolist() == pytest.approx([row.average_precision for row in figures.classes], abs=1e-12)
    low, high = interval(draws.by_size["all"][1]) or (0, 0)
    assert low < draws.by_size["all"][0] < high
    assert high - low < 0.25

    # one draw by hand: images that are drawn twice stand there twice
    images, annotations, repeated = [], [], []
    for place, count in enumerate(counts[3].tolist()):
        for copy in range(count):
            own, new = int(truth.image_ids[place]), len(images) + 1
            images.append({"id": new})
            for one in content["annotations"]:
                if one["image_id"] == own:
                    annotations.append({**one, "id": len(annotations) + 1, "image_id": new})
            for row in rows[rows[:, 0] == own]:
                repeated.append([new, *row[1:5], row[5] - 1e-9 * copy, row[6]])
    by_hand = average_precision(
        loaded({**content, "images": images, "annotations": annotations}), np.array(repeated)
    ).figures["AP"]
    assert draws.by_size["all"][1][2] == pytest.approx(by_hand, abs=0.004)  # equal scores are one step here, two there


def test_worked_examples() -> None:
    for module in (groups, precision_recall):
        outcome = doctest.testmod(module)
        assert outcome.attempted > 0
        assert outcome.failed == 0


def test_an_image_without_objects_has_background_alone() -> None:
    content = made_ground_truth(1, images=2, objects=0)
    truth = loaded(content)
    outcomes = outcomes_of(truth, np.array([[10, 0, 0, 9, 9, 0.5, 2.0], [11, 0, 0, 9, 9, 0.4, 5]]))
    assert [KINDS[kind] for kind in outcomes.kinds] == ["background"] * 2
    assert CORRECT not in outcomes.kinds
    assert by_attribute(truth, outcomes)["size"][0].average_precision is None


def test_the_bootstrap_is_a_plain_loop_over_pycocotools_matches(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    content, rows, truth, _ = made
    counts = draw_images(len(truth.image_ids), draws=6, seed=3)
    counts[4, 1:] = 0  # one image alone: classes without objects
    slow = slow_bootstrap(content, rows, counts)
    for values_at_a_time in (1, 200_000):  # each draw by itself, all together
        monkeypatch.setattr("detection.evaluation.bootstrap._VALUES_AT_A_TIME", values_at_a_time)
        draws = bootstrap(truth, rows, counts)
        by_class = np.vstack([draws.by_class[0], draws.by_class[1]])
        np.testing.assert_allclose(by_class, slow[:, :, 0], rtol=0, atol=1e-12)
        for place, name in enumerate(AREA_RANGES):
            by_size = [draws.by_size[name][0], *draws.by_size[name][1]]
            means = [np.mean(own[~np.isnan(own)]) if not np.isnan(own).all() else np.nan for own in slow[:, :, place]]
            np.testing.assert_allclose(by_size, means, rtol=0, atol=1e-12)
    assert np.isnan(slow[4]).any()


def slow_bootstrap(content: dict[str, Any], rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AP of each class for each area range (B, K, A), NaN without targets: pycocotools matches, the rest are loops."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(as_results(rows)), "bbox")
        evaluation.evaluate()
    numbers = {image: place for place, image in enumerate(evaluation.params.imgIds)}
    areas = [tuple(area) for area in evaluation.params.areaRng]
    by_cell: dict[tuple[int, tuple[float, float]], list[dict[str, Any]]] = {}
    for one in evaluation.evalImgs:
        if one is not None:
            by_cell.setdefault((one["category_id"], tuple(one["aRng"])), []).append(one)
    result = np.full((len(counts), len(content["categories"]), len(areas)), np.nan)
    for (category, area), images in by_cell.items():
        k = evaluation.params.catIds.index(category)
        for draw, count in enumerate(counts):
            targets = sum(int(count[numbers[one["image_id"]]]) * int((one["gtIgnore"] == 0).sum()) for one in images)
            if targets:
                averages = [_slow_average(images, threshold, count, numbers, targets) for threshold in range(10)]
                result[draw, k, areas.index(area)] = sum(averages) / 10
    return result


def _slow_average(
    images: list[dict[str, Any]], threshold: int, count: np.ndarray, numbers: dict[int, int], targets: int
) -> float:
    detections = [
        (-score, numbers[one["image_id"]], place, one["dtMatches"][threshold][place] > 0)
        for one in images
        for place, score in enumerate(one["dtScores"])
        if not one["dtIgnore"][threshold][place]
    ]
    found, total, points = 0, 0, []
    for _, image, _, correct in sorted(detections):
        total += int(count[image])
        found += int(count[image]) * correct
        points.append((found / targets, found / total if total else 0.0))
    levels = np.linspace(0, 1, 101).tolist()  # level / 100 differs in the last digit
    return sum(max((p for recall, p in points if recall >= level), default=0.0) for level in levels) / 101
