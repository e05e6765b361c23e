"""The COCO figures against the published reference and against pycocotools driven by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.common.errors import UserError
from detection.data.index import load_index
from detection.evaluation.average_precision import (
    BACKENDS,
    FIGURES,
    AveragePrecision,
    Backend,
    average_precision,
)
from detection.evaluation.results import rounded
from detection.experiment.ground_truth_loading import ground_truth_of, load_ground_truth
from detection.experiment.results_file import read_results, write_results


def pycocotools_stats(
    content: dict[str, Any], detections: np.ndarray, image_ids: list[int] | None = None
) -> np.ndarray:
    """The twelve numbers of pycocotools' own path: COCO, loadRes, evaluate, accumulate, summarize."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(content)
        truth.createIndex()
        results = [
            {"image_id": int(row[0]), "bbox": row[1:5].tolist(), "score": row[5], "category_id": int(row[6])}
            for row in detections
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        if image_ids is not None:
            evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def random_data(seed: int, images: int = 15, classes: int = 4) -> tuple[dict[str, Any], np.ndarray]:
    """Annotations and detections with ties, crowds, empty images, an absent class, more than 100 detections a class."""
    random = np.random.default_rng(seed)
    content: dict[str, Any] = {
        "images": [{"id": 3 * image + 2, "width": 400, "height": 300} for image in range(images)],
        "categories": [{"id": 2 * number + 1, "name": f"class {number}"} for number in range(classes + 1)],
        "annotations": [],
    }
    rows = []
    for image in content["images"][:-2]:  # two images without objects
        for _ in range(int(random.integers(0, 14))):
            category_id = 2 * int(random.integers(0, classes)) + 1  # the last class never occurs
            box = np.round([*random.uniform(0, 300, 2), *np.exp(random.uniform(1.5, 5.5, 2))], 2)
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * random.uniform(0.3, 1)),
                    "iscrowd": int(random.random() < 0.1),
                }
            )
            for _ in range(int(random.integers(0, 5))):
                found = np.abs(box + random.normal(0, 0.12, 4) * box[[2, 3, 2, 3]])
                label = category_id if random.random() < 0.8 else 2 * int(random.integers(0, classes + 1)) + 1
                rows.append([image["id"], *found, np.round(random.random(), 2), label])
    for _ in range(150):
        rows.append([2, *random.uniform(0, 100, 4), np.round(random.random(), 2), 1])
    rows.append([content["images"][-1]["id"], 5, 5, 20, 20, 0.99, 1])  # on an image without objects
    return content, np.array(rows)


def evaluated(content: dict[str, Any] | Path, detections: np.ndarray, **options: Any) -> AveragePrecision:
    return average_precision(load_ground_truth(content), detections, **options)


def numbers(outcome: AveragePrecision) -> list[float]:
    """The figures as pycocotools gives them: -1 for nothing to find."""
    return [-1.0 if value is None else value for value in outcome.figures.values()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_published_reference(shared_data: Path, backend: Backend) -> None:
    folder = shared_data / "coco_eval_reference"
    outcome = evaluated(
        folder / "instances_val2014_100.json",
        read_results(folder / "instances_val2014_fakebbox100_results.json"),
        backend=backend,
    )
    expected = (folder / "expected.txt").read_text().split("type=bbox")[1].split("type=keypoints")[0]
    lines = [line for line in expected.splitlines() if " Average " in line]
    assert len(lines) == 12
    assert outcome.summary().splitlines() == lines
    assert outcome.notes == []
    assert outcome.images == 100


def test_backends_give_the_same_to_the_last_digit(shared_data: Path) -> None:
    folder = shared_data / "coco_eval_reference"
    detections = read_results(folder / "instances_val2014_fakebbox100_results.json")
    own, theirs = (
        evaluated(folder / "instances_val2014_100.json", detections, backend=backend).to_dict() for backend in BACKENDS
    )
    assert own == theirs


def test_the_tool_takes_either_backend(repository: Path, tmp_path: Path) -> None:
    content, detections = random_data(17)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    write_results(tmp_path / "results.json", detections)
    command = [sys.executable, "tools/eval_coco.py", "--annotations", tmp_path / "annotations.json"]
    said = {
        subprocess.run(
            [*command, "--results", tmp_path / "results.json", *flag],
            check=True,
            cwd=repository,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for flag in ([], ["--backend", "pycocotools"])
    }
    assert said == {evaluated(content, rounded(detections)).table() + "\n"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_on_random_data(seed: int, backend: Backend) -> None:
    content, detections = random_data(seed)
    outcome = evaluated(content, detections, backend=backend)
    assert list(outcome.figures) == list(FIGURES)
    np.testing.assert_allclose(numbers(outcome), pycocotools_stats(content, detections), rtol=0, atol=1e-12)


def test_equals_pycocotools_on_some_of_the_images() -> None:
    content, detections = random_data(5)
    chosen = [2, 8, 11, 26]
    index = load_index(content, None, name="some", purpose="evaluation")
    some = index.subset(np.flatnonzero(np.isin(index.image_ids, chosen))[::-1])
    outcome = average_precision(ground_truth_of(some), detections[np.isin(detections[:, 0], chosen)])
    expected = pycocotools_stats(content, detections, chosen)
    np.testing.assert_allclose(numbers(outcome), expected, rtol=0, atol=1e-12)
    assert outcome.images == 4
    assert outcome.figures != evaluated(content, detections).figures


def test_per_class_rows() -> None:
    content, detections = random_data(6)
    outcome = evaluated(content, detections)
    assert [row.category_id for row in outcome.classes] == [1, 3, 5, 7, 9]
    for row in outcome.classes[:-1]:
        alone = {**content, "categories": [{"id": row.category_id, "name": row.name}]}
        alone["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == row.category_id]
        stats = pycocotools_stats(alone, detections[detections[:, 6] == row.category_id])
        assert row.average_precision == pytest.approx(stats[0], abs=1e-12)
        assert row.average_precision_50 == pytest.approx(stats[1], abs=1e-12)
        assert row.objects == sum(not entry["iscrowd"] for entry in alone["annotations"])
    absent = outcome.classes[-1]
    assert (absent.objects, absent.average_precision, absent.average_precision_50) == (0, None, None)
    assert outcome.class_table().splitlines()[-1].split() == ["9", "class", "4", "0", "—", "—"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_prints_nothing(capfd: pytest.CaptureFixture[str], backend: Backend) -> None:
    evaluated(*random_data(7), backend=backend)
    assert capfd.readouterr() == ("", "")


def test_no_detections_are_zeros() -> None:
    content, _ = random_data(8)
    outcome = evaluated(content, np.zeros((0, 7)))
    assert set(outcome.figures.values()) == {0.0}
    assert outcome.classes[0].average_precision == 0.0


def test_nothing_to_find_is_none_and_prints_as_cocos_minus_one() -> None:
    content, detections = random_data(9)
    content["annotations"] = [{**entry, "iscrowd": 1} for entry in content["annotations"]]
    outcome = evaluated(content, detections)
    assert set(outcome.figures.values()) == {None}
    assert all(line.endswith("= -1.000") for line in outcome.summary().splitlines())
    content["annotations"] = []
    assert evaluated(content, detections).figures == outcome.figures


def test_order_of_images_does_not_matter() -> None:
    """Several ranks hand in their images in another order than one."""
    content, detections = random_data(10)
    images = np.unique(detections[:, 0])
    shuffled = np.concatenate(
        [detections[detections[:, 0] == image] for image in np.random.default_rng(0).permutation(images)]
    )
    assert not np.array_equal(shuffled, detections)
    assert evaluated(content, shuffled).to_dict() == evaluated(content, detections).to_dict()


def test_a_results_file_gives_the_figures_of_its_array(tmp_path: Path) -> None:
    content, detections = random_data(11)
    write_results(tmp_path / "results.json", detections)
    from_file = evaluated(content, read_results(tmp_path / "results.json"))
    assert from_file.to_dict() == evaluated(content, rounded(detections)).to_dict()


def perfect(content: dict[str, Any]) -> np.ndarray:
    """One detection at each object."""
    return np.array(
        [[entry["image_id"], *entry["bbox"], 0.9, entry["category_id"]] for entry in content["annotations"]]
    )


def small_content() -> dict[str, Any]:
    boxes = [[10, 10, 50, 40], [100, 20, 80, 90], [5, 120, 60, 60]]
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": number + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, box in enumerate(boxes)
        ],
    }


def test_annotation_id_zero_is_matched() -> None:
    content = small_content()
    content["annotations"][0]["id"] = 0
    assert pycocotools_stats(content, perfect(content))[0] < 0.99  # what would happen without the repair
    outcome = evaluated(content, perfect(content), backend="pycocotools")
    assert outcome.figures["AP"] == pytest.approx(1.0)
    assert any("id 0" in note for note in outcome.notes)


def test_repairs_leave_the_input_alone_and_are_noted() -> None:
    content = small_content()
    content["annotations"][1]["id"] = content["annotations"][0]["id"]
    del content["annotations"][1]["iscrowd"], content["annotations"][2]["area"]
    before = copy.deepcopy(content)
    outcome = evaluated(content, perfect(content))
    assert outcome.figures["AP"] == pytest.approx(1.0)
    assert content == before
    assert len(outcome.notes) == 3
    assert "note: " in outcome.table()


def test_an_absurd_mask_never_reaches_pycocotools() -> None:
    """An RLE of such a size ends the process inside pycocotools' C code."""
    content = small_content()
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"size": [2**31, 2**31], "counts": [2**62, 5]}}
    outcome = evaluated(content, perfect(content), backend="pycocotools")
    assert outcome.figures["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_refused_by_image(score: float) -> None:
    content, detections = random_data(12)
    detections[3, 5] = score
    with pytest.raises(UserError, match=rf"score that is not finite.*image id {int(detections[3, 0])}"):
        evaluated(content, detections)


def test_detections_of_another_data_set_are_refused() -> None:
    content, detections = random_data(13)
    detections[4, 0] = 999
    with pytest.raises(UserError, match=r"1 of \d+ detections.*image id 999"):
        evaluated(content, detections)


def test_unknown_categories_are_left_out_and_noted_unless_all_are() -> None:
    content, detections = random_data(14)
    stray = detections.copy()
    stray[::2, 6] = 40
    outcome = evaluated(content, stray)
    kept = evaluated(content, stray[stray[:, 6] != 40])
    assert outcome.figures == kept.figures
    assert any("category id 40" in note for note in outcome.notes)
    stray[:, 6] = 40
    with pytest.raises(UserError, match="no detection is of a category"):
        evaluated(content, stray)


def test_to_dict_is_json_and_ground_truth_can_be_read_once() -> None:
    content, detections = random_data(16)
    truth = load_ground_truth(content)
    outcome = average_precision(truth, detections)
    assert json.loads(json.dumps(outcome.to_dict(), allow_nan=False)) == outcome.to_dict()
    assert evaluated(content, detections).to_dict() == outcome.to_dict()


def crowded(objects: int) -> dict[str, Any]:
    """An image with so many objects of one class, side by side, and one with two."""
    content = small_content()
    content["images"].append({"id": 2})
    content["annotations"] = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [10 * i, 0, 8, 8], "area": 64, "iscrowd": 0}
        for i in range(objects)
    ]
    content["annotations"] += [
        {"id": objects + 1 + i, "image_id": 2, "category_id": 1, "bbox": [10 * i, 0, 8, 8], "area": 64, "iscrowd": 0}
        for i in range(2)
    ]
    return content


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_objects_than_the_limit_are_told_and_another_limit_finds_them(backend: Backend) -> None:
    content = crowded(297)
    outcome = evaluated(content, perfect(content), backend=backend)
    assert outcome.figures["AP"] is not None
    assert outcome.figures["AP"] < 0.4
    [note] = outcome.notes
    assert note.startswith("1 times an image has more than 100 objects of one class (the most: image id 1, 297 of")
    further = evaluated(content, perfect(content), limit=300, backend=backend)
    assert further.notes == []
    assert further.figures["AP"] == pytest.approx(1)
    assert list(further.figures) == [name.replace("100", "300") for name in FIGURES]
    assert further.figures["AR_300"] == 1
    assert further.summary().splitlines()[0].endswith("maxDets=300 ] = 1.000")
    with pytest.raises(ValueError, match="above 10"):
        evaluated(content, perfect(content), limit=10)


@pytest.mark.parametrize("limit", [11, 60, 150])
def test_another_limit_equals_pycocotools(limit: int) -> None:
    content, detections = random_data(18)
    own, theirs = (evaluated(content, detections, limit=limit, backend=backend).to_dict() for backend in BACKENDS)
    assert own == theirs
    assert (own["figures"] == evaluated(content, detections).figures) == (limit == 100)


def test_a_thousand_detections_equal_pycocotools() -> None:
    """An image of 200 objects of a class with 1,300 detections of it, of which the 1,000 best count."""
    generator = np.random.default_rng(0)
    content = crowded(200)
    boxes = np.array([one["bbox"] for one in content["annotations"]], dtype=float)
    found = np.sort(generator.integers(0, len(boxes), 1300))
    images = [content["annotations"][place]["image_id"] for place in found]
    moved = boxes[found] + generator.normal(0, 0.6, (len(found), 4))
    detections = np.column_stack([images, moved, generator.random(len(found)).round(3), np.ones(len(found))])
    own, theirs = (evaluated(content, detections, limit=1000, backend=backend).to_dict() for backend in BACKENDS)
    assert own == theirs
    figures = [evaluated(content, detections, limit=limit).figures["AP"] for limit in (100, 1000, 3000)]
    assert figures[0] < figures[1] < figures[2]  # type: ignore[operator]
