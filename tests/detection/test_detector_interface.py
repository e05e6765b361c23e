"""The detections in one image in the forms of other tools, read back by those tools where they are installed."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from backbones.common.errors import UserError
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections, class_thresholds

CATEGORIES = Categories((3, 7, 9), ("cat", "dog", "owl"))


def detections(count: int) -> ImageDetections:
    boxes = np.array([[10, 20, 50, 100], [0, 0, 200, 100]], dtype=np.float32)[:count]
    scores = np.array([0.75, 0.5], dtype=np.float32)[:count]
    return ImageDetections.of_labels(boxes, scores, np.array([2, 3])[:count], CATEGORIES)


def test_coco_results_are_read_by_pycocotools() -> None:
    truth = COCO()
    truth.dataset = {"images": [{"id": 5}], "annotations": [], "categories": [{"id": i} for i in CATEGORIES.ids]}
    truth.createIndex()
    results = json.loads(json.dumps(detections(2).to_coco(5)))
    assert results[0] == {"image_id": 5, "category_id": 7, "bbox": [10, 20, 40, 80], "score": 0.75}
    read = truth.loadRes(results)
    assert [one["area"] for one in read.loadAnns(read.getAnnIds())] == [3200, 20000]
    assert detections(0).to_coco(5) == []


def test_yolo_lines_give_the_boxes_back() -> None:
    lines = detections(2).to_yolo(200, 100, with_scores=True)
    assert lines == ["1 0.150000 0.600000 0.200000 0.800000 0.750000", "2 0.500000 0.500000 1.000000 1.000000 0.500000"]
    assert detections(1).to_yolo(200, 100) == ["1 0.150000 0.600000 0.200000 0.800000"]
    assert detections(0).to_yolo(200, 100) == []
    with pytest.raises(UserError, match="0 × 100 pixels has no area"):
        detections(1).to_yolo(0, 100)


def test_labelme_has_a_rectangle_for_each_detection() -> None:
    content = json.loads(json.dumps(detections(2).to_labelme("street.jpg", 200, 100)))
    assert (content["imagePath"], content["imageWidth"], content["imageHeight"]) == ("street.jpg", 200, 100)
    assert [shape["label"] for shape in content["shapes"]] == ["dog", "owl"]
    assert content["shapes"][0]["points"] == [[10, 20], [50, 100]]
    assert {shape["shape_type"] for shape in content["shapes"]} == {"rectangle"}


@pytest.mark.parametrize("count", [2, 0])
def test_pandas_has_a_row_for_each_detection(count: int) -> None:
    pytest.importorskip("pandas", reason="PANDAS MISSING: the conversion to a DataFrame was not tried")
    frame = detections(count).to_pandas()
    assert list(frame.columns) == ["x0", "y0", "x1", "y1", "score", "category_id", "category"]
    assert frame.category.tolist() == ["dog", "owl"][:count]
    assert frame.x1.tolist() == [50, 200][:count]


@pytest.mark.parametrize("count", [2, 0])
def test_supervision_has_the_same_detections(count: int) -> None:
    pytest.importorskip("supervision", reason="SUPERVISION MISSING: the conversion was not tried")
    found = detections(count).to_supervision()
    assert len(found) == count
    assert found.class_id.tolist() == [1, 2][:count]
    assert found.data["class_name"].tolist() == ["dog", "owl"][:count]
    assert np.array_equal(found.xyxy, detections(count).boxes)


@pytest.mark.parametrize("name", ["pandas", "supervision"])
def test_a_package_that_is_missing_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{name} cannot be imported.*pip install .*{name}"):
        getattr(detections(2), f"to_{name}")()


def test_thresholds_by_the_names_of_classes() -> None:
    least = class_thresholds({"dog": 0.8, "owl": 0.2}, CATEGORIES, 0.6)
    assert least == [0.6, 0.8, 0.2]
    assert detections(2).above(least).names == ["owl"]


@pytest.mark.parametrize(
    ("scores", "message"), [({"dgo": 0.5}, 'no class "dgo".*cat, dog, owl'), ({"dog": 50}, "of dog is 50")]
)
def test_thresholds_that_cannot_be_used(scores: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_thresholds(scores, CATEGORIES, 0.5)
