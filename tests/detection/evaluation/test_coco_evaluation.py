"""Our COCO evaluation against pycocotools, bit for bit, on data full of ties, and against cases worked by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="HYPOTHESIS MISSING: no random data was evaluated")

from hypothesis import strategies as st  # noqa: E402

from benchmarks.evaluation import FAST, PEER, is_installed, largest_difference, like_pycocotools, ours, write_data  # noqa: E402
from detection.evaluation import coco_cells, coco_evaluation, groups, pycocotools_evaluation  # noqa: E402
from detection.evaluation.ground_truth import GroundTruth  # noqa: E402

bounded = hypothesis.settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "100")), deadline=None, derandomize=True, database=None
)
# Few whole-numbered boxes, most of them in each other's way at several thresholds; the last two at the bounds of sizes.
BOXES = [(0, 0, 10, 10), (0, 0, 10, 9), (0, 1, 10, 9), (1, 0, 9, 10), (2, 0, 10, 10), (0, 0, 5, 10), (0, 0, 20, 20)]
BOXES += [(3, 3, 0, 4), (50, 50, 32, 32), (50, 50, 96, 96), (49, 50, 96, 97)]
IMAGE_IDS, CATEGORY_IDS = (2, 5, 9), (1, 4, 7)

box = st.sampled_from(BOXES)
place = st.tuples(st.sampled_from(IMAGE_IDS), st.sampled_from(CATEGORY_IDS))
area = st.none() | st.sampled_from([0.0, 1024.0, 9216.0, 5000.0, 2e10])
objects = st.lists(st.tuples(place, box, area, st.sampled_from([False, False, False, True])), max_size=14)
detections = st.lists(st.tuples(place, box, st.sampled_from([0.1, 0.5, 0.5000001, 0.9])), max_size=30)


def ground_truth(things: list[tuple[Any, ...]]) -> GroundTruth:
    """Of (image and category id, box, area or None for the box's own, crowd)."""
    boxes = np.array([thing[1] for thing in things], dtype=np.float64).reshape(-1, 4)
    areas = [box[2] * box[3] if given is None else given for _, box, given, _ in things]
    places = np.array([thing[0] for thing in things], dtype=np.int64).reshape(-1, 2)
    return GroundTruth(
        image_ids=np.array(IMAGE_IDS),
        category_ids=np.array(CATEGORY_IDS),
        category_names=["a", "b", "c"],
        boxes=boxes,
        areas=np.array(areas, dtype=np.float64),
        crowds=np.array([thing[3] for thing in things], dtype=bool),
        object_image_ids=places[:, 0],
        object_category_ids=places[:, 1],
    )


def rows(found: list[tuple[Any, ...]]) -> np.ndarray:
    """Of (image and category id, box, score)."""
    return np.array([(image, *box, score, category) for (image, category), box, score in found]).reshape(-1, 7)


def assert_equals_pycocotools(truth: GroundTruth, found: np.ndarray) -> None:
    for own, theirs in zip(
        coco_evaluation.evaluate(truth, found), pycocotools_evaluation.evaluate(truth, found), strict=True
    ):
        np.testing.assert_array_equal(own, theirs)


@bounded
@hypothesis.given(things=objects, found=detections)
def test_equals_pycocotools_to_the_bit(things: list[tuple[Any, ...]], found: list[tuple[Any, ...]]) -> None:
    assert_equals_pycocotools(ground_truth(things), rows(found))


@pytest.mark.parametrize("seed", range(10))
def test_equals_pycocotools_with_more_detections_than_count(seed: int) -> None:
    """Over 100 detections of a class in an image, nearly all in the way of another."""
    random = np.random.default_rng(seed)

    def boxes(count: int) -> np.ndarray:
        return np.array(BOXES)[random.integers(0, len(BOXES), count)] + random.integers(0, 2, (count, 4))

    def place() -> tuple[int, int]:
        return int(random.choice(IMAGE_IDS)), int(random.choice([1] * 9 + [4]))

    truth = ground_truth([(place(), tuple(one), None, random.random() < 0.1) for one in boxes(60)])
    ids = np.column_stack([random.choice(IMAGE_IDS[:2], 600), random.choice([1, 1, 1, 4], 600)])
    found = np.column_stack([ids[:, 0], boxes(600), random.integers(0, 50, 600) / 50, ids[:, 1]])
    precision, _ = coco_evaluation.evaluate(truth, found)
    assert 0.01 < precision[precision > -1].mean() < 0.99
    assert_equals_pycocotools(truth, found)


def test_everyone_gives_the_same_on_what_looks_like_coco(tmp_path: Path) -> None:
    """Ours, pycocotools and other evaluators that are installed; detections from a file and an array."""
    annotations, results = write_data(tmp_path, images=60, categories=12)
    others = [PEER, *(module for name, module in FAST.items() if is_installed(name))]
    reports = []
    for read_truth, read_results, evaluate in (ours(), *map(like_pycocotools, others)):
        truth = read_truth(annotations)
        for found in (str(results), ours()[1](None, results)):
            figures, classes = evaluate(truth, read_results(truth, found))
            reports.append({"figures": figures, "classes": classes})
    assert 0.2 < reports[0]["figures"][0] < 0.8
    assert max(largest_difference(reports[0], one) for one in reports) <= 1e-12


def test_pairs_in_small_portions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    annotations, results = write_data(tmp_path, images=5, categories=2)
    truth, found = ours()[0](annotations), ours()[1](None, results)
    whole = coco_evaluation.evaluate(truth, found)
    monkeypatch.setattr(groups, "_PAIRS_AT_A_TIME", 7)
    monkeypatch.setattr(coco_cells, "_DETECTIONS_AT_A_TIME", 50)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for one, other in zip(whole, coco_evaluation.evaluate(truth, found), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("limit", [1, 50, 2**16, 2**16 + 5, 2**40])
def test_groups_are_sorted_as_numpy_sorts_stably(limit: int) -> None:
    values = np.random.default_rng(0).integers(0, limit, 1000)
    np.testing.assert_array_equal(groups.stable_order(values), np.argsort(values, kind="stable"))
    scores = values / limit
    np.testing.assert_array_equal(groups.descending_order(scores), np.lexsort((np.arange(1000), -scores)))


def test_scores_of_every_magnitude_and_sign_are_sorted() -> None:
    random = np.random.default_rng(0)
    scores = random.choice([-1, 1], 1000) * 10.0 ** random.integers(-320, 308, 1000)
    scores = np.concatenate([scores, np.repeat([0.0, -0.0, 0.5, 1.7e308, -1.7e308, 5e-324], 3)])
    scores = scores[random.permutation(1018)]
    expected = np.lexsort((np.arange(1018), -scores))
    np.testing.assert_array_equal(groups.descending_order(scores), expected)
    np.testing.assert_array_equal(groups.descending_order(scores[:0]), [])
    np.testing.assert_array_equal(groups.descending_order(np.full(3, 0.5)), [0, 1, 2])


@pytest.mark.parametrize("known", [[], [3], [3, 4, 9], [-(2**53), 7, 9, 2**53]])
def test_places_among_ids_near_and_far(known: list[int]) -> None:
    ids = [7, 9, 3, 4, 3, -1, 10, -(2**53), 2**53, 0]
    expected = [known.index(one) if one in known else -1 for one in ids]
    for kind in (np.int64, np.float64):
        assert groups.places_among(np.array(ids, dtype=kind), np.array(known, dtype=np.int64)).tolist() == expected
    assert groups.places_among(np.zeros(0), np.array(known, dtype=np.int64)).tolist() == []


def test_by_hand() -> None:
    """Two objects; of four detections the first and the third find one each, up to IoU 0.9 and 0.5."""
    truth = ground_truth([((2, 1), (0, 0, 10, 10), None, False), ((5, 1), (100, 100, 40, 40), None, False)])
    found = rows(
        [
            ((2, 1), (0, 0, 10, 9), 0.9),
            ((2, 1), (0, 0, 10, 10), 0.8),  # the object is taken wherever the first one reaches it
            ((5, 1), (100, 100, 40, 20), 0.7),
            ((5, 1), (200, 200, 50, 50), 0.6),
        ]
    )
    precision, recall = coco_evaluation.evaluate(truth, found)
    assert recall[:, 0, 0, 2].tolist() == [1.0] + [0.5] * 9
    assert precision[0, :, 0, 0] == pytest.approx(np.repeat([1, 2 / 3], [51, 50]))
    assert precision[1:9, :, 0, 0] == pytest.approx(np.tile(np.repeat([1.0, 0], [51, 50]), (8, 1)))
    assert precision[9, :, 0, 0] == pytest.approx(np.repeat([0.5, 0], [51, 50]))  # the second finds it, after a miss
    assert recall[9, 0, 0, 0] == 0  # one detection an image: the second is not looked at
    assert recall[0, 0, :, 2].tolist() == [1.0, 1.0, 1.0, -1.0]  # small: 100, medium: 1600, nothing large
    # Among medium ones, the small detections that find nothing do not count, nor does what finds a small object.
    assert precision[0, :, 0, 2] == pytest.approx(np.ones(101))
    assert (precision[:, :, 1:] == -1).all()
    assert (recall[:, 1:] == -1).all()


def test_a_crowd_region_takes_any_number_of_detections_but_an_object_comes_first() -> None:
    truth = ground_truth([((2, 1), (0, 0, 100, 100), None, True), ((2, 1), (0, 0, 50, 50), None, False)])
    inside = [((2, 1), (x, 60, 20, 20), 0.9) for x in (0, 20, 40)]
    precision, recall = coco_evaluation.evaluate(truth, rows([*inside, ((2, 1), (0, 0, 50, 50), 0.5)]))
    assert recall[:, 0, 0, 2].tolist() == [1.0] * 10
    assert precision[:, :, 0, 0] == pytest.approx(np.ones((10, 101)))  # none of the three counts as false


def test_boxes_beyond_all_measure_match_nothing() -> None:
    truth = ground_truth([((2, 1), (0, 0, 10, 10), None, False), ((2, 1), (-1e200, 0, 1e300, 1e300), 5.0, False)])
    found = rows([((2, 1), (0, 0, 10, 10), 0.9), ((2, 1), (-1e200, 0, 1e300, 1e300), 0.8)])
    _, recall = coco_evaluation.evaluate(truth, found)
    assert recall[:, 0, 0, 2].tolist() == [0.5] * 10


def test_needs_neither_torch_nor_pycocotools(repository: Path) -> None:
    """Loading torch takes longer than the evaluation of COCO."""
    code = (
        "import sys, numpy as np; from detection.evaluation.average_precision import average_precision as evaluate;"
        "from detection.experiment.ground_truth_loading import load_ground_truth;"
        "one = [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 9, 9], 'area': 81, 'iscrowd': 0}];"
        "data = {'images': [{'id': 1}], 'categories': [{'id': 1}], 'annotations': one};"
        "assert evaluate(load_ground_truth(data), np.array([[1, 0, 0, 9, 9, 0.5, 1]])).figures['AP'] > 0.999;"
        "assert not {'torch', 'pycocotools'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository)
