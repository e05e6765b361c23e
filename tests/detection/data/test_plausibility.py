"""Implausible objects are reported with counts, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection.data.findings import KINDS
from detection.data.index import load_index
from detection.experiment.ground_truth_loading import load_ground_truth

SIDES = (200, 300)  # height, width


def boxes(count: int, seed: int = 0) -> np.ndarray:
    """x, y, width, height within the image, two decimals."""
    random = np.random.default_rng(seed)
    sides = random.uniform(5, 100, (count, 2))
    corners = random.uniform(0, 1, (count, 2)) * (np.array(SIDES[::-1]) - sides)
    return np.round(np.concatenate([corners, sides], axis=1), 2)


def content_of(rows: np.ndarray, **values: Any) -> dict[str, Any]:
    """An image with these boxes, of two classes in turn."""
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": SIDES[0], "width": SIDES[1]}],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": 1 + i % 2,
                "bbox": row,
                "area": round(row[2] * row[3] * 0.7, 2),
                "iscrowd": 0,
                **values,
            }
            for i, row in enumerate(rows.tolist())
        ],
    }


def found(content: dict[str, Any], folder: Path, check: Any = "sound", purpose: Any = "training") -> dict[str, int]:
    random = np.random.default_rng(1)
    for image in content["images"]:
        pixels = random.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"])
    (folder / "annotations.json").write_text(json.dumps(content))
    index = load_index(folder / "annotations.json", folder, name="x", check=check, purpose=purpose)
    return {kind: finding.count for kind, finding in index.findings.by_kind.items()}


def test_usual_objects_are_told_nothing_of(tmp_path: Path) -> None:
    assert found(content_of(boxes(40)), tmp_path) == {}


@pytest.mark.parametrize("check", ["present", "sound"])
def test_boxes_as_fractions(tmp_path: Path, check: Any) -> None:
    """As one annotation service exports them: AR after training was 0.000, without a word."""
    rows = boxes(40) / [300, 200, 300, 200]
    assert found(content_of(rows), tmp_path, check)["boxes_as_fractions"] == 40
    rows[:25] = boxes(25)
    assert "boxes_as_fractions" not in found(content_of(rows), tmp_path, check)


@pytest.mark.parametrize("check", ["present", "sound"])
def test_corners_in_place_of_width_and_height(tmp_path: Path, check: Any) -> None:
    rows = boxes(40)
    rows[:, 2:] += rows[:, :2]
    over = int(((rows[:, 0] + rows[:, 2] > 301) | (rows[:, 1] + rows[:, 3] > 201)).sum())
    assert 10 < over < 40
    assert found(content_of(rows), tmp_path, check)["boxes_as_corners"] == over
    rows[:5] = boxes(5)
    rows[:5, 2:] = 3
    assert "boxes_as_corners" not in found(content_of(rows), tmp_path, check)


@pytest.mark.parametrize("check", ["present", "sound"])
def test_nearly_all_are_crowd_regions(tmp_path: Path, check: Any) -> None:
    content = content_of(boxes(18), iscrowd=1)
    content["annotations"][0]["iscrowd"] = 0
    assert found(content, tmp_path, check) == {"crowds_mostly": 17}
    for annotation in content["annotations"][:9]:
        annotation["iscrowd"] = 0
    assert found(content, tmp_path, check) == {}


@pytest.mark.parametrize(("share", "told"), [(0.05, 30), (0.12, 0), (1.0, 0), (3.0, 30)])
def test_areas_far_from_their_boxes(tmp_path: Path, share: float, told: int) -> None:
    """A third of them; with the boxes' own areas, or with those of outlines that cover an eighth, all is well."""
    rows = boxes(90)
    content = content_of(rows)
    for annotation in content["annotations"][:30]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3] * share
    assert found(content, tmp_path) == ({"areas_far": told} if told else {})
    assert found(content, tmp_path, "present") == {}


def test_areas_of_whole_pixels_are_not_far(tmp_path: Path) -> None:
    content = content_of(np.array([[10.0, 10, 4, 4]] * 10) + np.arange(10)[:, None] * [1, 0, 0, 0], area=25)
    assert found(content, tmp_path) == {}


def test_classes_without_objects(tmp_path: Path) -> None:
    content = content_of(boxes(10))
    content["categories"] += [{"id": 7, "name": "three"}, {"id": 9, "name": "four"}]
    assert found(content, tmp_path) == {"class_without_object": 2}
    assert found(content, tmp_path, "present") == {}


def test_more_objects_of_a_class_than_an_evaluation_looks_at(tmp_path: Path) -> None:
    content = content_of(boxes(205))
    assert found(content, tmp_path, purpose="evaluation") == {"class_crowded": 2}  # 103 and 102
    assert found(content, tmp_path, purpose="training") == {}
    for annotation in content["annotations"][:6]:
        annotation["iscrowd"] = 1
    assert found(content, tmp_path, purpose="evaluation") == {}


def test_all_of_it_is_only_told(tmp_path: Path) -> None:
    kinds = ("boxes_as_fractions", "boxes_as_corners", "crowds_mostly", "areas_far", "class_crowded")
    assert not any(KINDS[kind].outcome(purpose)[1] for kind in kinds for purpose in ("training", "evaluation"))
    content = content_of(boxes(40) / [300, 200, 300, 200])
    found(content, tmp_path)
    index = load_index(tmp_path / "annotations.json", tmp_path, name="x", check="sound")
    assert len(index.boxes) == 40
    assert "if they are fractions, multiply them by the image's width and height" in index.findings.summary()
    assert load_ground_truth(content).notes == []  # without sizes nothing of the kind can be told
