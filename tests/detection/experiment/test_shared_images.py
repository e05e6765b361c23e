"""Test images that also stand in train: found by their bytes, wherever they are and whatever they are called."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.experiment.datasets import open_split
from detection.experiment.shared_images import images_also_in_train, training_source
from tests.detection.pipeline import MINIATURE


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_demo_dataset(tmp_path, train=4, test=3)
    (tmp_path / "miniature.yaml").write_text(MINIATURE)
    return tmp_path


def test_a_copy_under_another_name_is_found(data: Path) -> None:
    config = load_config(data / "miniature.yaml", [f"data.root={data}"])
    source = training_source(config.data)
    assert source is not None
    assert images_also_in_train(config.data, source, open_split(config.data, "test")) == []
    first_train = json.loads((data / "annotations/instances_train.json").read_text())["images"][2]["file_name"]
    second_test = json.loads((data / "annotations/instances_test.json").read_text())["images"][1]["file_name"]
    shutil.copy(data / "train" / first_train, data / "test" / second_test)
    assert images_also_in_train(config.data, source, open_split(config.data, "test")) == [second_test]


def test_without_training_images_nothing_is_said_and_nothing_is_drawn(data: Path, tmp_path: Path) -> None:
    config = load_config(data / "miniature.yaml", [f"data.root={data}"])
    shutil.rmtree(data / "train")
    assert training_source(config.data) is None
    demo = dataclasses.replace(config.data, layout="demo", root=str(tmp_path / "nowhere"))
    assert training_source(demo) is None
    assert not (tmp_path / "nowhere").exists()
