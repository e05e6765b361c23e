"""Test images that also stand in train: found by their bytes, wherever they are and whatever they are called."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from detection import config as settings
from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.experiment.datasets import open_split
from detection.experiment.shared_images import compare_with_train, data_of_training, training_source
from detection.report.advice_on_data import rarer_labels_texts
from detection.report.seen import RarerLabels
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
    assert compare_with_train(config.data, source, open_split(config.data, "test"))[0] == []
    first_train = json.loads((data / "annotations/instances_train.json").read_text())["images"][2]["file_name"]
    second_test = json.loads((data / "annotations/instances_test.json").read_text())["images"][1]["file_name"]
    shutil.copy(data / "train" / first_train, data / "test" / second_test)
    assert compare_with_train(config.data, source, open_split(config.data, "test"))[0] == [second_test]


def test_labels_that_were_forgotten_in_train_are_told_by_class(data: Path) -> None:
    """Of one class, and of no other, train has a quarter of the objects."""
    config = load_config(data / "miniature.yaml", [f"data.root={data / 'larger'}"])
    data = data / "larger"
    make_demo_dataset(data, train=120, test=60)
    labels = data / "annotations/instances_train.json"
    content = json.loads(labels.read_text())
    stars = [one["id"] for one in content["annotations"] if one["category_id"] == 4]

    def rarer() -> list[RarerLabels]:
        source = training_source(config.data)
        return compare_with_train(config.data, source, open_split(config.data, "test"))[1]

    assert rarer() == []
    kept = [one for one in content["annotations"] if one["id"] not in stars or one["id"] in stars[::4]]
    labels.write_text(json.dumps({**content, "annotations": kept}))
    (found,) = rarer()
    assert found.name == "star"
    assert found.train == pytest.approx(len(stars) / 4 / 120, abs=0.02)
    assert found.train < 0.7 * found.test
    text = " ".join(rarer_labels_texts([found]))
    assert f"An image has {found.train:.2f} objects of star in train, and {found.test:.2f} in test" in text
    assert "labels of star are probably missing in train" in text


def test_training_labels_that_cannot_be_read_are_no_obstacle(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(data / "miniature.yaml", [f"data.root={data}"])
    source, test = training_source(config.data), open_split(config.data, "test")
    (data / "annotations/instances_train.json").write_text("{")
    assert compare_with_train(config.data, source, test) == (None, [])
    assert "the test images were not compared with the training images" in caplog.text
    assert compare_with_train(config.data, None, test) == (None, [])


def test_without_training_images_nothing_is_said_and_nothing_is_drawn(data: Path, tmp_path: Path) -> None:
    config = load_config(data / "miniature.yaml", [f"data.root={data}"])
    shutil.rmtree(data / "train")
    assert training_source(config.data) is None
    demo = dataclasses.replace(config.data, layout="demo", root=str(tmp_path / "nowhere"))
    assert training_source(demo) is None
    assert not (tmp_path / "nowhere").exists()


def test_other_images_are_compared_with_those_of_the_training() -> None:
    trained = settings.Data(root="mine", split=settings.Division(test=0.2))
    whole = settings.Data(root="mine", test=settings.Split(name="other", annotations="/a.json", images="/images"))
    assert data_of_training(trained, trained) == trained
    assert data_of_training(whole, trained) == trained  # and not with all images of that folder
    assert data_of_training(dataclasses.replace(trained, root="moved"), trained) is not None
    # of another folder, whose images are all measured, none is known to be of the training
    assert data_of_training(settings.Data(root="other", test=settings.Split(name="all")), trained) is None
