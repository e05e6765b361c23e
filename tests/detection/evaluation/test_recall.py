"""Proposal recall against pycocotools' COCOeval."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.common.errors import UserError
from detection.evaluation.recall import AREA_RANGES, RecallAccumulator

LIMITS = (100, 300, 1000, 2000)


def coco_recall(images: list[dict[str, np.ndarray]], limits: tuple[int, ...]) -> np.ndarray:
    """COCOeval's recall (10 thresholds, 4 area ranges, L limits) with useCats = 0; images count from 1, boxes xyxy."""
    truths, results = [], []
    for image_id, image in enumerate(images, start=1):
        for box, area, crowd in zip(image["boxes"], image["areas"], image["crowds"], strict=True):
            x0, y0, x1, y1 = box.tolist()
            entry = {"image_id": image_id, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            truths.append({"id": len(truths) + 1, **entry, "area": float(area), "iscrowd": int(crowd)})
        for rank, box in enumerate(image["proposals"]):
            x0, y0, x1, y1 = box.tolist()
            entry = {"image_id": image_id, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            results.append({"id": len(results) + 1, **entry, "area": (x1 - x0) * (y1 - y0), "score": 1.0 - rank * 1e-5})
    tables = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in (truths, results):
            table = COCO()
            table.dataset = {
                "images": [{"id": image_id} for image_id in range(1, len(images) + 1)],
                "categories": [{"id": 1}],
                "annotations": annotations,
            }
            table.createIndex()
            tables.append(table)
        evaluation = COCOeval(*tables, iouType="bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


def random_image(
    random: np.random.Generator, targets: int, proposals: int, spread: float = 120
) -> dict[str, np.ndarray]:
    """Boxes that crowd on each other, with sizes on both sides of the area limits, on a grid of quarter pixels."""
    corners = random.uniform(0, spread, (targets, 2))
    sizes = np.exp(random.uniform(np.log(8), np.log(180), (targets, 2)))
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    noise = random.normal(0, 1, (proposals, 4)) * random.uniform(0, 12, (proposals, 1))
    near = boxes[random.integers(0, targets, proposals)] + noise if targets else random.uniform(0, 200, (proposals, 4))
    near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:])], axis=1)
    boxes, near = np.round(boxes * 4) / 4, np.round(near * 4) / 4
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * random.uniform(0.4, 1.0, targets)
    return {"boxes": boxes, "areas": areas, "crowds": random.random(targets) < 0.1, "proposals": near}


def accumulate(images: list[dict[str, np.ndarray]], limits: tuple[int, ...]) -> RecallAccumulator:
    accumulator = RecallAccumulator(limits)
    for image_id, image in enumerate(images, start=1):
        accumulator.add(image_id, image["proposals"], image["boxes"], image["areas"], image["crowds"])
    return accumulator


def assert_equals_coco(images: list[dict[str, np.ndarray]], limits: tuple[int, ...]) -> None:
    accumulator = accumulate(images, limits)
    expected = coco_recall(images, limits)  # (I, A, L)
    for row in range(len(AREA_RANGES)):
        if accumulator.objects[row] == 0:
            assert (expected[:, row] == -1).all()
        else:
            found = accumulator.found[row].T / accumulator.objects[row]
            np.testing.assert_allclose(found, expected[:, row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_equals_cocoeval_on_crowded_random_boxes(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = [random_image(random, int(random.integers(0, 25)), int(random.integers(0, 90))) for _ in range(12)]
    assert_equals_coco(images, (1, 5, 20, 60))


def test_equals_cocoeval_with_many_proposals() -> None:
    random = np.random.default_rng(10)
    images = [random_image(random, 12, 1200, spread=400), random_image(random, 3, 350), random_image(random, 0, 50)]
    assert_equals_coco(images, LIMITS)


def test_equals_cocoeval_with_ties_and_repeated_boxes() -> None:
    """Equal overlaps: COCOeval takes the later of the boxes."""
    random = np.random.default_rng(11)
    images = []
    for _ in range(20):
        image = random_image(random, 8, 30)
        for key in ("boxes", "proposals"):
            image[key] = np.round(image[key] / 40) * 40
            image[key][:, 2:] = np.maximum(image[key][:, 2:], image[key][:, :2] + 40)
        images.append(image)
    assert_equals_coco(images, (1, 3, 10, 30))


@pytest.mark.parametrize("name", ["bccd/annotations/test.json", "coco_tiny/instances.json"])
def test_equals_cocoeval_on_real_ground_truth(shared_data: Path, name: str) -> None:
    content = json.loads((shared_data / name).read_text())
    random = np.random.default_rng(12)
    images = []
    for entry in content["images"][:30]:
        objects = [annotation for annotation in content["annotations"] if annotation["image_id"] == entry["id"]]
        boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        proposals = np.repeat(boxes, 12, axis=0)
        proposals = random.permutation(proposals + random.normal(0, 6, proposals.shape))
        images.append(
            {
                "boxes": boxes,
                "areas": np.array([annotation["area"] for annotation in objects], dtype=np.float64),
                "crowds": np.array([annotation["iscrowd"] for annotation in objects], dtype=bool),
                "proposals": proposals,
            }
        )
    assert sum(len(image["boxes"]) for image in images) > 100
    assert_equals_coco(images, LIMITS)


def test_size_limits_belong_to_both_ranges() -> None:
    box = np.array([[0.0, 0.0, 32.0, 32.0]])
    accumulator = RecallAccumulator((1,))
    accumulator.add(1, box, box)
    result = accumulator.result()
    assert result.objects == {"all": 1, "small": 1, "medium": 1, "large": 0}
    assert result.average_recall == {"all": [1.0], "small": [1.0], "medium": [1.0], "large": None}


def test_ranks_merge_to_the_same_figures() -> None:
    random = np.random.default_rng(14)
    images = [random_image(random, 9, 40) for _ in range(9)]
    whole = accumulate(images, (10, 40)).result()
    parts = [RecallAccumulator((10, 40)) for _ in range(4)]  # the last gets nothing
    for image_id, image in enumerate(images, start=1):
        parts[image_id % 3].add(image_id, image["proposals"], image["boxes"], image["areas"], image["crowds"])
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].result() == whole


@pytest.mark.parametrize("most", [3, 12, 20, 60, 61])
def test_figures_end_where_the_proposals_do(most: int) -> None:
    random = np.random.default_rng(16)
    images = [random_image(random, 9, 80) for _ in range(4)]
    for image in images:
        image["proposals"] = image["proposals"][:most]
    limits = tuple(limit for limit in (1, 5, 20, 60) if limit < most)
    expected = accumulate(images, (*limits, most) if most <= 60 else limits).result()
    assert accumulate(images, (1, 5, 20, 60)).result().up_to(most) == expected


def test_an_image_cannot_count_twice() -> None:
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    one, other = RecallAccumulator(), RecallAccumulator()
    one.add(7, box, box)
    other.add(7, box, box)
    with pytest.raises(ValueError, match="image id 7 was added twice"):
        one.add(7, box, box)
    with pytest.raises(ValueError, match="image id 7"):
        one.merge(other)
    with pytest.raises(ValueError, match="limits differ"):
        one.merge(RecallAccumulator((5,)))


def test_not_finite_is_refused_by_image() -> None:
    with pytest.raises(UserError, match="image id 41"):
        RecallAccumulator().add(41, np.array([[0.0, np.nan, 1.0, 1.0]]), np.zeros((0, 4)))


def test_empty_and_crowd_only_images() -> None:
    accumulator = RecallAccumulator()
    accumulator.add(1, np.zeros((0, 4)), np.zeros((0, 4)))
    crowd = np.array([[0.0, 0.0, 50.0, 50.0]])
    accumulator.add(2, crowd, crowd, crowds=np.array([True]))
    result = accumulator.result()
    assert result.images == 2
    assert result.objects["all"] == 0
    assert result.average_recall["all"] is None
    assert result.recall_50 is None
    assert result.to_dict()["figures"]["AR_1000"] is None
    assert "—" in result.table()


def test_names_and_table() -> None:
    box = np.array([[0.0, 0.0, 100.0, 100.0]])
    accumulator = RecallAccumulator()
    accumulator.add(1, np.array([[0.0, 0.0, 100.0, 76.0]]), box)  # IoU 0.76: six of ten thresholds
    figures = accumulator.result().to_dict()["figures"]
    assert figures["AR_100"] == pytest.approx(0.6)
    assert figures["AR_2000_large"] == pytest.approx(0.6)
    assert figures["AR_100_small"] is None
    assert figures["recall50_300"] == 1.0
    assert json.loads(json.dumps(figures)) == figures
    assert "AR @[ IoU=0.50:0.95 ] large" in accumulator.result().table()


def test_thousands_of_boxes_in_one_image() -> None:
    """An image of ten thousand objects must neither fill the memory nor take minutes."""
    random = np.random.default_rng(15)
    corners = random.uniform(0, 3000, (10_000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (10_000, 2))], axis=1)
    accumulator = RecallAccumulator()
    accumulator.add(1, boxes[:2000], boxes)
    assert accumulator.result().average_recall["all"] == pytest.approx([0.01, 0.03, 0.1, 0.2])
