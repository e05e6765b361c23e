"""Configurations that are fitted to data: what is found, what is set for which reason, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.common.errors import UserError
from detection.common.core_yaml import parse_yaml
from detection.config_file import config_from_dict, load_config
from detection.data.demo import make_demo_dataset
from detection.experiment import fitted_steps
from detection.experiment.anchor_check import scaled_objects
from detection.experiment.config_for_data import config_for_data, name_for, write_new_config
from detection.experiment.datasets import open_split
from detection.experiment.fitted_config import fit_config
from detection.experiment.paces import Paces
from tests.detection.pipeline import save_untrained_networks, tool

CPU = torch.device("cpu")
PACES = Paces(0.5, 0.1, 0.25, 0.2, 0.3, train_images=100, test_images=10)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "My shapes"
    make_demo_dataset(folder, train=8, test=3)
    return folder


def fit(data: Path, *changes: str, **options: Any) -> Any:
    return fit_config(data, CPU, name="x", changes=changes, **options)


def one_piece(data: Path, folder: Path, edit: Any = lambda content: None) -> Path:
    """The training split alone, with an annotation file that says nothing of splits."""
    shutil.copytree(data / "train", folder / "images")
    content = json.loads((data / "annotations" / "instances_train.json").read_text())
    edit(content)
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


def test_the_file_states_the_configuration_with_reasons(data: Path) -> None:
    fitted = fit(data)
    text = fitted.text()
    assert config_from_dict(parse_yaml(text, "text"), "text") == fitted.config
    config = fitted.config
    assert config.data.root == str(data.resolve())
    assert config.data.format == "coco"
    assert config.data.split.test is None, "the set has splits"
    assert config.backbone.weights == "builtin/tiny_imagenet"
    assert config.rpn.training.schedule == config.fast_rcnn.training.schedule == "cosine"
    assert config.rpn.training.evaluate_every == "auto"
    assert "Objects of each class in data.train: " in text
    assert "small: ours" in text
    for line in text.splitlines():
        key = line.strip()
        if key and not key.startswith("#") and not key.endswith(":"):
            above = text[: text.index(line)].rstrip("\n").rsplit("\n", 1)[-1]
            assert "#" in line or above.strip().startswith("#"), line


def test_the_image_size_is_at_most_twice_the_images_and_anchors_fit_the_scaled_boxes(data: Path) -> None:
    config = fit(data).config
    index = open_split(config.data, "train")
    own = float(np.median(np.minimum(index.heights, index.widths)))
    assert config.data.test_shorter_side <= 2 * own + 8
    assert min(config.data.shorter_sides) < config.data.test_shorter_side < max(config.data.shorter_sides)
    size = np.sqrt(scaled_objects(config.data, index).sides.prod(axis=1))
    assert config.rpn.anchor_sizes[0] < np.median(size) < config.rpn.anchor_sizes[-1]


def test_many_small_boxes_in_large_images_raise_the_size(data: Path, tmp_path: Path) -> None:
    def shrink(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["height"], image["width"] = 600, 800
        for one in content["annotations"]:
            one["bbox"] = [*one["bbox"][:2], 14, 14]
            one["iscrowd"] = 0
            one["segmentation"] = []

    import cv2

    root = one_piece(data, tmp_path, shrink)
    for path in (root / "images").iterdir():
        cv2.imwrite(str(path), np.zeros((600, 800, 3), np.uint8))
    config = fit(root).config
    assert config.data.test_shorter_side == 512
    assert config.data.test_longer_side == 768


def test_a_set_in_one_piece_is_divided_and_images_without_objects_are_kept(data: Path, tmp_path: Path) -> None:
    def empty(content: dict[str, Any]) -> None:
        gone = {image["id"] for image in content["images"][:3]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] not in gone]

    config = fit(one_piece(data, tmp_path, empty)).config
    assert config.data.split.test == 0.2
    assert config.data.keep_empty
    assert len(open_split(config.data, "test")) + len(open_split(config.data, "train")) == 8


def test_what_is_given_stays_and_what_depends_on_it_follows(data: Path, tmp_path: Path) -> None:
    root = one_piece(data, tmp_path)
    fitted = fit(root, "data.split.test=0.5", "rpn.anchor_sizes=[8, 16, 32, 64, 128]", "rpn.training.steps=7")
    config = fitted.config
    assert config.data.split.test == 0.5
    assert config.rpn.anchor_sizes == (8, 16, 32, 64, 128)
    assert config.rpn.training.steps == 7
    assert config_from_dict(parse_yaml(fitted.text(), "text"), "text") == config
    with pytest.raises(UserError, match="sampels: unknown key"):
        fit(root, "rpn.sampels=3")


def test_crowded_images_raise_the_limits(data: Path, tmp_path: Path) -> None:
    def crowd(content: dict[str, Any]) -> None:
        first = content["annotations"][0]
        box = [1, 1, 20, 20]
        content["annotations"] += [
            {**first, "id": 10_000 + i, "iscrowd": 0, "bbox": [*np.add(box[:2], i % 40).tolist(), 20, 20 + i % 7]}
            for i in range(150)
        ]

    config = fit(one_piece(data, tmp_path, crowd), "data.split.test=0.2", "data.split.seed=1").config
    plain = fit(data).config
    assert config.fast_rcnn.detections > 150 > plain.fast_rcnn.detections
    assert config.rpn.test_proposals.after_nms > 300
    assert config.rpn.training_proposals == config.rpn.test_proposals
    assert plain.rpn.test_proposals.after_nms == 300


def test_the_steps_fill_the_minutes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted_steps, "measure_paces", lambda config, device: PACES)
    config = fit(data, minutes=30).config
    rpn, fast = config.rpn.training, config.fast_rcnn.training
    total = PACES.training(rpn, 0.5) + PACES.after_rpn(config)
    assert 0.85 * 1800 < total < 1800
    assert rpn.steps * 0.5 == pytest.approx(fast.steps * 0.25 * 0.4 / 0.6, rel=0.05)
    assert max(rpn.warmup_steps, fast.warmup_steps) <= min(rpn.steps, fast.steps) / 5
    with pytest.raises(UserError, match=r"--minutes 0\.1 is too short: .* give at least"):
        fit(data, minutes=0.1)
    with pytest.raises(UserError, match=r"--minutes and rpn\.training\.steps"):
        fit(data, "rpn.training.steps=4", minutes=5)
    with pytest.raises(UserError, match="above 0"):
        fit(data, minutes=0)


def test_the_structure_is_that_of_the_detector_to_start_from(data: Path, tmp_path: Path) -> None:
    save_untrained_networks(tmp_path, data)
    fitted = fit(data, init_from=tmp_path / "detector.pt")
    config, theirs = fitted.config, load_config(tmp_path / "miniature.yaml")
    assert config.init_from == str(tmp_path / "detector.pt")
    assert config.backbone == theirs.backbone
    assert config.rpn.anchor_sizes == theirs.rpn.anchor_sizes
    assert config.data.test_shorter_side == 96
    assert config_from_dict(parse_yaml(fitted.text(), "text"), "text") == config


def test_a_set_without_objects_is_refused(data: Path, tmp_path: Path) -> None:
    root = one_piece(data, tmp_path, lambda content: content["annotations"].clear())
    with pytest.raises(UserError, match="object"):
        fit(root)


def test_an_existing_file_is_never_overwritten(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine\n")
    with pytest.raises(UserError, match="is there already, and is not overwritten"):
        write_new_config(path, data, CPU, name="x")
    assert path.read_text() == "mine\n"
    said = tool("new_config", "--data", data, "--output", path, "--device", "cpu", check=False)
    assert said.returncode == 1
    said = tool("new_config", "--data", data, "--output", tmp_path / "new.yaml", "--device", "cpu", "rpn.samples=99")
    assert said.stdout.strip() == str(tmp_path / "new.yaml")
    config = load_config(tmp_path / "new.yaml")
    assert (config.name, config.rpn.samples, config.runtime.device) == ("new", 99, "cpu")


def test_a_later_call_uses_the_file_and_other_data_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    config, fitted = config_for_data(data, CPU)
    assert fitted is not None
    path = tmp_path / "runs" / "My_shapes" / "My_shapes.yaml"
    assert config.output == str(path.parent)
    path.write_text(path.read_text().replace("  steps: 800", "  steps: 801"))
    with caplog.at_level(logging.INFO):
        again, fitted = config_for_data(data, CPU, changes=["rpn.samples=77"])
    assert fitted is None
    assert "configuration of an earlier call is used" in caplog.text
    assert again.rpn.samples == 77
    assert again.rpn.training.steps == 801
    other = tmp_path / "other" / "My shapes"
    other.mkdir(parents=True)
    with pytest.raises(UserError, match="name another folder for this run"):
        config_for_data(other, CPU)
    with pytest.raises(UserError, match="starts from no detector"):
        config_for_data(data, CPU, init_from=tmp_path / "d.pt")


def test_names_of_runs() -> None:
    assert name_for(Path("/a/b c (1).v2")) == "b_c_1_.v2"
    assert name_for(Path("/")) == "data"


def test_a_gpu_gets_the_pyramid_on_public_weights(data: Path) -> None:
    fitted = fit_config(data, torch.device("cuda"), name="x", stated_device="cuda")  # nothing is computed on it
    config = fitted.config
    assert config.backbone.name == "resnext50_32x4d"
    assert config.backbone.weights == "torchvision/IMAGENET1K_V1"
    assert config.backbone.features == "pyramid"
    assert config.runtime.device == "cuda"
    assert config.rpn.training.steps >= 2000
    assert config.rpn.training.milestones == ()
    assert config_from_dict(parse_yaml(fitted.text(), "text"), "text") == config
