"""Real COCO images in COCO's own layout, through the configurations of the paper and of the modern preset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backbones import create_classifier
from detection.config import Split
from detection.config_file import load_config
from detection.experiment.datasets import open_split
from tests.detection.pipeline import REPOSITORY, tool

PAPER = REPOSITORY / "configs/paper/resnext50_32x4d.yaml"


@pytest.fixture(scope="module")
def coco_small(shared_data: Path) -> Path:
    return shared_data / "coco_small"


def test_trainval35k_and_minival_are_found_in_cocos_layout(coco_small: Path) -> None:
    config = load_config(PAPER, [f"data.root={coco_small}"])
    train, test = open_split(config.data, "train"), open_split(config.data, "test")
    assert (len(train), len(test)) == (66, 42)
    assert config.data.train == Split("trainval35k")
    assert len(train.category_ids) == 80
    assert len(train.non_empty()) < len(train)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "modern", "pyramid"])
def test_the_real_run_only_shorter(preset: str, coco_small: Path, tmp_path: Path) -> None:
    """A few steps of both networks with the preset's images, anchors, proposals and pooling, from a weights file in
    torchvision's own format; AR and AP are measured after the last step."""
    weights = tmp_path / "resnext50_32x4d.pth"
    torch.manual_seed(0)
    classifier = create_classifier("resnext50_32x4d")
    with torch.no_grad():  # a few passes set BN's running statistics, which the detector keeps fixed
        for _ in range(4):
            classifier(torch.randn(4, 3, 96, 96))
    torch.save(classifier.state_dict(), weights)
    changes = [f"backbone.weights={weights}", "runtime.device=cpu", "runtime.workers=0"]
    for network, batch in (("rpn", 2), ("fast_rcnn", 2)):
        keys = (f"global_batch={batch}", "steps=3", "milestones=[2]", "log_every=1")
        changes += [f"{network}.training.{key}" for key in keys]
    changes += ["data.train.limit=8", "data.test.limit=4"]
    config = REPOSITORY / f"configs/{preset}/resnext50_32x4d.yaml"
    arguments = ["--config", config, "--data", coco_small, "--output", tmp_path / "run", *changes]
    tool("train_rpn", *arguments)
    tool("train_fastrcnn", *arguments)
    for stage, figure in (("rpn", "AR_100"), ("fastrcnn", "AP")):
        lines = [json.loads(line) for line in (tmp_path / "run" / stage / "log.jsonl").read_text().splitlines()]
        trained = [line for line in lines if line["kind"] == "train"]
        assert [line["step"] for line in trained] == [1, 2, 3]
        assert all(0 < line["loss"] < 100 for line in trained)
        assert [line["step"] for line in lines if figure in line] == [3]
    tool("eval_coco", "--weights", tmp_path / "run/detector.pt")
    assert json.loads((tmp_path / "run/evaluation/figures.json").read_text())["figures"]["AP"] is not None
    assert "AR @[" in tool("eval_coco", "--weights", tmp_path / "run/rpn.pt").stdout


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "pyramid"])
def test_eight_images_are_learnt_by_heart(preset: str, coco_small: Path, tmp_path: Path) -> None:
    """From scratch on smaller images, one block a stage and a schedule to match: AP@0.5 above 0.9 on what was trained
    on. Ten minutes on two cores; the paper's depth would take an hour."""
    annotations = json.loads((coco_small / "annotations/instances_train2017.json").read_text())
    chosen = {30, 72, 73, 86, 92, 165, 208, 309}  # images of a few large objects each
    annotations["images"] = [image for image in annotations["images"] if image["id"] in chosen]
    annotations["annotations"] = [one for one in annotations["annotations"] if one["image_id"] in chosen]
    (tmp_path / "eight.json").write_text(json.dumps(annotations))
    split = f"annotations: {tmp_path / 'eight.json'}, images: {coco_small / 'train2017'}"
    changes = [
        "data.layout=files", f"data.train={{name: eight, {split}}}", f"data.test={{name: eight, {split}}}",
        "data.shorter_sides=[192]", "data.longer_side=288", "data.test_shorter_side=192", "data.test_longer_side=288",
        "backbone.weights=null", "backbone.norm=batch", "backbone.freeze=null", "backbone.depths=[1,1,1,1]",
        "rpn.allowed_border=null", "rpn.training_proposals.after_nms=300", "rpn.training_proposals.before_nms=3000",
        "fast_rcnn.pooling=align", "fast_rcnn.pooled_size=7", "fast_rcnn.samples=32", "runtime.device=cpu",
    ]  # fmt: skip
    if preset == "paper":
        changes += ["rpn.anchor_sizes=[32,64,128]"]
    else:
        changes += ["rpn.anchor_sizes=[16,32,64,128,256]", "backbone.pyramid_norm=batch"]
    for network, steps in (("rpn", 150), ("fast_rcnn", 250)):
        changes += [
            f"{network}.training.{key}"
            for key in ("global_batch=8", "images_per_device=8", "learning_rate=0.02", "learning_rate_batch=8",
                        "milestones=[]", "schedule=cosine", "warmup_steps=20", "clip_norm=10", f"steps={steps}")
        ]  # fmt: skip
    config = REPOSITORY / f"configs/{preset}/resnext50_32x4d.yaml"
    arguments = ["--config", config, "--output", tmp_path / "run", *changes]
    tool("train_rpn", *arguments)
    tool("train_fastrcnn", *arguments)
    tool("eval_coco", "--weights", tmp_path / "run/detector.pt")
    figures = json.loads((tmp_path / "run/evaluation/figures.json").read_text())["figures"]
    assert figures["AP50"] > 0.9
