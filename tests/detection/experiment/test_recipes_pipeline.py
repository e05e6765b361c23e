"""Options of training and inference by the same commands as ever: trained, resumed, loaded, measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detection import Detector
from detection.config_file import load_config
from detection.data.demo import make_demo_dataset
from detection.experiment import stages
from detection.experiment.datasets import open_split
from detection.experiment.model_files import load_fast_rcnn
from detection.networks.cascade import CascadeRCNN
from detection.networks.region_loss import class_balanced_weights
from tests.detection.pipeline import MINIATURE, arguments_for, assert_same_weights, tool

CPU = torch.device("cpu")
CASCADE = ["fast_rcnn.cascade=[0.6]", "fast_rcnn.box_loss=giou", "fast_rcnn.box_loss_weight=2"]
PYRAMID = [
    "backbone.features=pyramid", "backbone.pyramid_width=16", "rpn.anchor_sizes=[16,24,32,48,64]",
    "fast_rcnn.box_head=two_layers", "fast_rcnn.box_head_width=32",
]  # fmt: skip
INFERENCE = [
    "data.test_scales=[64]", "data.test_flip=true", "fast_rcnn.nms=linear", "fast_rcnn.box_voting_iou=0.8",
    "fast_rcnn.nms_across_classes=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=8, test=4)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        [*CASCADE, "fast_rcnn.class_balance=0.99", "rpn.box_loss=ciou"],
        [*PYRAMID, *CASCADE, "fast_rcnn.cascade=[0.6, 0.7]"],
        ["fast_rcnn.sampling=ohem"],
    ],
    ids=["cascade of conv5", "cascade on a pyramid", "ohem"],
)
def test_the_commands_train_resume_and_measure(changes: list[str], config: Path, data: Path, tmp_path: Path) -> None:
    run, halves = tmp_path / "run", tmp_path / "halves"
    for stage in ("rpn", "fastrcnn"):
        tool(f"train_{stage}", *arguments_for(config, data, run, changes))
    # From the checkpoint after four of the six steps on.
    (halves / "fastrcnn").mkdir(parents=True)
    (halves / "rpn.pt").write_bytes((run / "rpn.pt").read_bytes())
    checkpoint = "checkpoint_00000004.pt"
    (halves / "fastrcnn" / checkpoint).write_bytes((run / "fastrcnn" / checkpoint).read_bytes())
    resumed = tool("train_fastrcnn", *arguments_for(config, data, halves, changes), "--resume")
    assert "continuing after step 4" in resumed.stderr
    assert_same_weights(run / "detector.pt", halves / "detector.pt", atol=1e-5, rtol=1.3e-6)
    found = Detector.load(run / "detector.pt", "cpu", changes=INFERENCE)(next((data / "test").iterdir()))
    assert found.boxes.shape[1] == 4
    assert isinstance(load_fast_rcnn(run / "fastrcnn.pt").network, CascadeRCNN) == ("ohem" not in changes[-1])


def test_what_is_for_inference_alone_may_change_and_a_cascade_may_not(config: Path, data: Path, tmp_path: Path) -> None:
    for stage in ("rpn", "fastrcnn"):
        tool(f"train_{stage}", *arguments_for(config, data, tmp_path))
    assert "Average Precision" in tool("eval_coco", "--weights", tmp_path / "detector.pt", *INFERENCE).stdout
    report = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "also at 64 px, flipped horizontally" in report
    refused = tool("eval_coco", "--weights", tmp_path / "detector.pt", CASCADE[0], check=False)
    assert refused.returncode == 1
    assert "fast_rcnn.cascade: [] trained with, [0.6] asked for" in refused.stderr


def test_a_cascade_is_fine_tuned_stage_by_stage(config: Path, data: Path, tmp_path: Path) -> None:
    """At a rate of nearly 0, so that the written weights are the initial ones."""
    for stage in ("rpn", "fastrcnn"):
        tool(f"train_{stage}", *arguments_for(config, data, tmp_path / "old", CASCADE))
    start = [f"init_from={tmp_path / 'old' / 'detector.pt'}", "fast_rcnn.training.learning_rate=1e-30"]
    rpn = ["--rpn", tmp_path / "old" / "rpn.pt"]
    tool("train_fastrcnn", *arguments_for(config, data, tmp_path / "new", [*CASCADE, *start]), *rpn)
    old, new = (load_fast_rcnn(tmp_path / run / "fastrcnn.pt").network.state_dict() for run in ("old", "new"))
    assert old.keys() == new.keys()
    for name, value in old.items():
        torch.testing.assert_close(new[name], value, rtol=0, atol=1e-12)
    refused = tool("train_fastrcnn", *arguments_for(config, data, tmp_path / "plain", start), *rpn, check=False)
    assert refused.returncode == 1
    assert "fast_rcnn.cascade: [0.6] in the file, [] by the configuration" in refused.stderr


def test_the_class_weights_are_those_of_the_training_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "miniature.yaml").write_text(MINIATURE)
    changes = [f"data.root={data}", f"output={tmp_path / 'run'}", "fast_rcnn.class_balance=0.9"]
    config = load_config(tmp_path / "miniature.yaml", changes)
    index = open_split(config.data, "train")
    counts = [0] * len(index.category_ids)
    for i in range(len(index)):
        _, labels, crowds = index.objects(i)
        for label in labels[~crowds].tolist():
            counts[label - 1] += 1
    assert len(set(counts)) > 1
    built: list[torch.Tensor] = []
    inner = stages.build_fast_rcnn

    def noted(*arguments: object, **options: object) -> object:
        network = inner(*arguments, **options)  # type: ignore[arg-type]
        assert network.loss.class_weights is not None
        built.append(network.loss.class_weights)
        return network

    monkeypatch.setattr(stages, "build_fast_rcnn", noted)
    stages.train_rpn(config, CPU)
    stages.train_fast_rcnn(config, CPU)
    assert [weights.tolist() for weights in built] == [class_balanced_weights(counts, 0.9).tolist()]
    assert not np.allclose(built[0], 1)


def test_synchronised_batch_norm_in_one_process_trains_as_batch_norm(config: Path, data: Path, tmp_path: Path) -> None:
    states = []
    for norm in ("batch", "sync_batch"):
        tool("train_rpn", *arguments_for(config, data, tmp_path / norm, [f"backbone.norm={norm}"]))
        states.append(torch.load(tmp_path / norm / "rpn.pt", weights_only=True)["networks"]["rpn"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
