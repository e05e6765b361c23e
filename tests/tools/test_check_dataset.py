"""check_dataset.py: what it says of a file is what the trainings and both ways of evaluation say of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backbones.common.errors import UserError
from detection.config_file import load_config
from detection.data.findings import KINDS
from detection.data.index import DatasetIndex
from detection.experiment.datasets import open_split
from tests.detection.pipeline import MINIATURE, tool

# (where, what is written there, the finding): `...` removes the key. None: nothing is found.
ODD = [
    ("annotations", {"iscrowd": "0"}, "id_as_text"),
    ("annotations", {"iscrowd": "yes"}, "crowd_malformed"),
    ("annotations", {"iscrowd": 0.0}, "id_as_float"),
    ("annotations", {"iscrowd": True}, "crowd_as_boolean"),
    ("annotations", {"iscrowd": 2}, "crowd_malformed"),
    ("annotations", {"iscrowd": None}, "crowd_missing"),
    ("annotations", {"area": "9"}, "area_as_text"),
    ("annotations", {"area": True}, "area_missing"),
    ("annotations", {"area": [9]}, "area_missing"),
    ("annotations", {"area": ...}, "area_missing"),
    ("annotations", {"bbox": [True, 2, 10, 20]}, "box_malformed"),
    ("annotations", {"bbox": ["1", 2, 10, 20]}, "box_as_text"),
    ("annotations", {"bbox": [1, 2, 10]}, "box_malformed"),
    ("annotations", {"bbox": [1, 2, math.nan, 20]}, "box_not_finite"),
    ("annotations", {"bbox": [1, 2, 0, 20]}, "box_zero_size"),
    ("annotations", {"bbox": [9, 9, -5, -5]}, "box_negative_size"),
    ("annotations", {"image_id": True}, "annotation_image_malformed"),
    ("annotations", {"image_id": "1"}, "id_as_text"),
    ("annotations", {"image_id": "000000000001"}, "id_as_text"),
    ("annotations", {"image_id": 1.0}, "id_as_float"),
    ("annotations", {"image_id": 1.5}, "annotation_image_malformed"),
    ("annotations", {"image_id": "first"}, "annotation_image_malformed"),
    ("annotations", {"image_id": 2**60}, "id_too_large"),
    ("annotations", {"image_id": 77}, "annotation_without_image"),
    ("annotations", {"category_id": "1"}, "id_as_text"),
    ("annotations", {"category_id": ...}, "annotation_category_malformed"),
    ("annotations", {"category_id": 2**63}, "id_too_large"),
    ("annotations", {"category_id": 77}, "category_unknown"),
    ("annotations", {"id": "abc"}, "annotation_id_malformed"),
    ("annotations", {"id": "0b4ff6a0-52d3-11ee-8c99-0242ac120002"}, "annotation_id_malformed"),
    ("annotations", {"id": 2**64}, "annotation_id_malformed"),
    ("annotations", {"id": 2**60}, None),
    ("annotations", {"id": 0}, "annotation_id_zero"),
    ("annotations", {"id": 2}, "annotation_id_twice"),
    ("annotations", {"id": ...}, "annotation_id_missing"),
    ("annotations", {"ignore": 1}, "ignore_flag"),
    ("images", {"id": True}, "image_id_malformed"),
    ("images", {"id": "1"}, "id_as_text"),
    ("images", {"id": 1.0}, "id_as_float"),
    ("images", {"id": "a"}, "image_id_malformed"),
    ("images", {"id": 2**53 + 1}, "id_too_large"),
    ("images", {"id": 2}, "image_id_twice"),
    ("categories", {"id": "1"}, "id_as_text"),
    ("categories", {"id": False}, "category_id_malformed"),
    ("categories", {"id": 2}, "category_id_twice"),
    ("categories", {"id": 1e17}, "id_too_large"),
    ("categories", {"name": ...}, "category_name_missing"),
    ("categories", {"name": "two"}, "category_name_twice"),
    ("images", "twice", "image_twice"),
    ("categories", "twice", "category_twice"),
]


def odd_content(table: str, change: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [i, 2, 10, 20], "area": 200, "iscrowd": 0}
            for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }
    if change == "twice":
        content[table].append(content[table][0])
    else:
        content[table][0] = {key: value for key, value in {**content[table][0], **change}.items() if value is not ...}
    return content


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration both of whose splits are the file that a test writes."""
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        Image.new("RGB", (60, 40), (90 * i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    path = tmp_path / "odd.yaml"
    path.write_text(
        MINIATURE.replace("annotations/instances_train.json, images: train", "odd.json, images: images").replace(
            "annotations/instances_test.json, images: test", "odd.json, images: images"
        )
        + f"\noutput: {tmp_path / 'run'}\n"
    )
    return path


@pytest.mark.parametrize(("table", "change", "kind"), ODD)
def test_one_verdict(table: str, change: Any, kind: str | None, config_file: Path) -> None:
    folder = config_file.parent
    (folder / "odd.json").write_text(json.dumps(odd_content(table, change)))
    (folder / "results.json").write_text(
        json.dumps([{"image_id": 2, "category_id": 2, "bbox": [1, 1, 5, 5], "score": 0.5}])
    )
    config = load_config(config_file, [f"data.root={folder}"])

    def judged(which: Any) -> tuple[bool, str]:
        try:
            index: DatasetIndex = open_split(config.data, which)
        except UserError as error:
            return True, str(error)
        return False, index.findings.summary()

    checked = tool("check_dataset", "--config", config_file, "--data", folder, check=False)
    evaluated = tool(
        "eval_coco", "--results", folder / "results.json", "--annotations", folder / "odd.json", check=False
    )
    parts = {split: f"data.{split}: {folder}/odd.json: " for split in ("train", "test")}
    said = checked.stdout + checked.stderr
    assert set(parts) == {split for split, start in parts.items() if start in said}
    verdicts = {
        "training": judged("train"),
        "evaluation": judged("test"),
        "results": (evaluated.returncode == 1, evaluated.stdout + evaluated.stderr),
        "checked train": (parts["train"] in checked.stderr, said),
        "checked test": (parts["test"] in checked.stderr, said),
    }
    for name, (refused, text) in verdicts.items():
        purpose: Any = "training" if name in ("training", "checked train") else "evaluation"
        then, refuse = ("", False) if kind is None else KINDS[kind].outcome(purpose)
        assert refused == refuse, name
        if kind is None:
            assert "1 annotations" not in text
        else:
            assert f" {KINDS[kind].found}: {then}" in text, name
    assert checked.returncode == int(verdicts["checked train"][0] or verdicts["checked test"][0])


def test_images_are_not_needed_to_measure_a_results_file(tmp_path: Path) -> None:
    content = odd_content("annotations", {})
    content["images"] = [{"id": 1}, {"id": 2}]
    content["annotations"][0]["bbox"] = [-20, -20, 5000, 5000]  # its image's size is not known: taken as stated
    (tmp_path / "odd.json").write_text(json.dumps(content))
    found = [
        {"image_id": 1, "category_id": 1, "bbox": annotation["bbox"], "score": 0.5}
        for annotation in content["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    said = tool("eval_coco", "--results", tmp_path / "results.json", "--annotations", tmp_path / "odd.json").stdout
    assert said.splitlines()[0].endswith("= 1.000")
    assert "note" not in said


def test_classes_of_the_two_splits_are_held_against_each_other(config_file: Path) -> None:
    folder = config_file.parent
    content = odd_content("annotations", {})
    (folder / "odd.json").write_text(json.dumps(content))
    content["categories"] = [{"id": 2, "name": "one"}, {"id": 1, "name": "two"}]
    (folder / "test.json").write_text(json.dumps(content))
    arguments = ("check_dataset", "--config", config_file, "--data", folder, "data.test.annotations=test.json")
    result = tool(*arguments)
    assert f"its classes are matched by name with those of {folder}/odd.json" in result.stderr
    content["categories"][0]["name"] = "another"
    (folder / "test.json").write_text(json.dumps(content))
    result = tool(*arguments, check=False)
    assert result.returncode == 1
    assert f"{folder}/test.json: its classes are not those of {folder}/odd.json" in result.stderr


def test_only_the_data_of_a_configuration_matter(config_file: Path) -> None:
    """Settings that a training would refuse say nothing against a data set."""
    folder = config_file.parent
    (folder / "odd.json").write_text(json.dumps(odd_content("annotations", {})))
    config_file.write_text(config_file.read_text().replace("freeze: null", "freeze: c2").replace("norm: group", ""))
    changes = ["rpn.negative_iou=0.9", "rpn.training.milestones=[5, 2]"]
    refused = tool("train_rpn", "--config", config_file, "--data", folder, *changes, check=False)
    for key in ("backbone.freeze", "backbone.norm", "rpn.negative_iou", "milestones"):
        assert key in refused.stderr
    assert "2 images" in tool("check_dataset", "--config", config_file, "--data", folder, *changes).stdout
    unnamed = tool("check_dataset", "--config", config_file, "--data", folder, "data.test={}", check=False)
    assert unnamed.returncode == 1
    assert "data.train: " in unnamed.stdout
    assert "data.test: data.test: no files are named; give data.test.annotations" in unnamed.stderr
    wrong = tool("check_dataset", "--config", config_file, "--data", folder, "data.shorter_sides=[]", check=False)
    assert "data.shorter_sides: at least one value is needed" in wrong.stderr
