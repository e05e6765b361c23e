"""What comes after the last step, or instead of it: the best weights, an early end, averages, more steps, detectors of
checkpoints, and fine-tuning."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from detection.experiment.model_files import load_detector, load_fast_rcnn, load_rpn
from detection.training.artifacts import load_artifact, save_artifact
from detection.training.checkpoints import evaluated_weights
from tests.detection.pipeline import MINIATURE, arguments_for, assert_same_weights, tool

EVERY = ["rpn.training.evaluate_every=2", "fast_rcnn.training.evaluate_every=2"]
COSINE = [
    f"{network}.training.{change}"
    for network in ("rpn", "fast_rcnn")
    for change in ("schedule=cosine", "milestones=[]")
]


def entries(run: Path, stage: str, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def remarks(run: Path, stage: str) -> str:
    return "\n".join(entry["text"] for entry in entries(run, stage, "remark"))


# The best


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_the_best_weights_are_written_and_say_their_step(
    stage: str, run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    section, figure = {"rpn": ("rpn", "AR_100"), "fastrcnn": ("fast_rcnn", "AP")}[stage]
    changes = [*EVERY, f"{section}.training.keep_best={figure if stage == 'rpn' else 'auto'}"]
    extra = ["--rpn", run / "rpn.pt"] if stage == "fastrcnn" else []
    said = tool(f"train_{stage}", *arguments_for(config, data, tmp_path, changes), *extra).stderr
    measured = {entry["step"]: entry[figure] for entry in entries(tmp_path, stage, "evaluation")}
    assert list(measured) == [2, 4, 6]
    step = max(measured, key=lambda step: (measured[step], -step))
    assert f"written are the weights after step {step} of 6: the best by {figure} ({measured[step]:.4f})" in said
    load: Any = load_rpn if stage == "rpn" else load_fast_rcnn
    trained = load(tmp_path / f"{stage}.pt")
    assert trained.provenance["steps"] == step
    assert trained.provenance["weights"] == f"the best by {figure} ({measured[step]:.4f}), of 6 steps"
    best = load_artifact(tmp_path / stage / "best.pt", "checkpoint")
    assert all(torch.equal(value, best["network"][name]) for name, value in trained.network.state_dict().items())
    # and the same again, from what is stored
    before = (tmp_path / f"{stage}.pt").read_bytes()
    tool(f"train_{stage}", *arguments_for(config, data, tmp_path, changes), *extra, "--resume")
    if stage == "rpn":
        assert (tmp_path / "rpn.pt").read_bytes() == before
    assert load(tmp_path / f"{stage}.pt").provenance["steps"] == step


def test_the_progress_line_shows_the_latest_figure(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    arguments = [*arguments_for(config, data, tmp_path, EVERY), "--rpn", run / "rpn.pt"]
    said = tool("train_fastrcnn", *arguments).stderr
    ap = entries(tmp_path, "fastrcnn", "evaluation")[0]["AP"]
    assert f"fastrcnn 4/6  AP {ap:.4f} at 2  loss" in said


def test_tensorboard_shows_detections_and_curves_of_each_evaluation(
    run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    arguments = arguments_for(config, data, tmp_path, [*EVERY, "runtime.tensorboard=true"])
    tool("train_rpn", *arguments)
    tool("train_fastrcnn", *arguments)
    for stage, curve in (("rpn", "recall_over_proposals"), ("fastrcnn", "precision_over_recall")):
        accumulator = event_accumulator.EventAccumulator(str(tmp_path / stage / "tensorboard"), {"images": 0})
        accumulator.Reload()
        tags = accumulator.Tags()["images"]
        assert [event.step for event in accumulator.Images(f"curves/{curve}")] == [2, 4, 6]
        assert len([tag for tag in tags if tag.startswith("detections/")]) == (2 if stage == "fastrcnn" else 0)


def test_a_missing_logger_is_refused_before_the_training(
    config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = tool("train_rpn", *arguments_for(config, data, tmp_path, ["runtime.loggers=[wandb]"]), check=False)
    assert result.returncode == 1
    assert "Install it with `pip install wandb`" in result.stderr
    assert not list(tmp_path.rglob("*.pt"))


def test_patience_ends_a_training_early(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    """With a score threshold of 1 nothing is ever found: the first AP, 0, stays the best."""
    changes = [*EVERY, "fast_rcnn.training.patience=1", "fast_rcnn.min_score=1.0"]
    arguments = [*arguments_for(config, data, tmp_path, changes), "--rpn", run / "rpn.pt"]
    said = tool("train_fastrcnn", *arguments).stderr
    assert "stopping early: no better AP since step 2" in said
    assert "written are the weights after step 2 of 4: the best by AP (0.0000)" in said
    assert load_detector(tmp_path / "detector.pt").fast_rcnn.provenance["steps"] == 2
    assert [entry["step"] for entry in entries(tmp_path, "fastrcnn", "evaluation")] == [2, 4]
    # More patience goes on where it stopped.
    more = ["fast_rcnn.training.patience=2"]
    said = tool("train_fastrcnn", *arguments, *more, "--resume").stderr
    assert "continuing after step 4" in said
    assert [entry["step"] for entry in entries(tmp_path, "fastrcnn", "evaluation")] == [2, 4, 6]


@pytest.mark.parametrize("change", [[], ["rpn.training.patience=2"], ["rpn.training.keep_best=AR_100"]])
def test_a_run_without_a_test_split_trains_and_says_what_it_goes_without(
    change: list[str], data: Path, tmp_path: Path
) -> None:
    lines = [line for line in MINIATURE.splitlines() if not line.startswith("  test:")]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    arguments = arguments_for(tmp_path / "mine.yaml", data, tmp_path / "run", change)
    result = tool("train_rpn", *arguments, check=not change)
    if change:
        assert result.returncode == 1
        assert "need evaluations, and data.test names no files" in result.stderr
        assert not (tmp_path / "run/rpn.pt").exists()
    else:
        assert "data.test names no files: no AP is computed during the training" in result.stderr
        assert entries(tmp_path / "run", "rpn", "evaluation") == []
        assert load_rpn(tmp_path / "run/rpn.pt").provenance["steps"] == 6


def test_averaged_weights_are_what_is_written(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    changes = ["rpn.training.ema=0.5", "rpn.training.keep_best=null"]
    said = tool("train_rpn", *arguments_for(config, data, tmp_path, changes)).stderr
    assert "written are the weights after step 6 of 6: the last, averaged with a decay of 0.5" in said
    checkpoint = load_artifact(tmp_path / "rpn/checkpoint_00000006.pt", "checkpoint")
    averaged, written = evaluated_weights(checkpoint), load_rpn(tmp_path / "rpn.pt").network.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in written.items())
    last = load_rpn(run / "rpn.pt").network.state_dict()  # the training itself is the same
    assert all(torch.equal(value, last[name]) for name, value in checkpoint["network"].items())
    assert any(not torch.equal(value, last[name]) for name, value in written.items())


# More steps


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_more_steps_of_a_step_schedule_end_as_if_asked_for_at_once(
    stage: str, copy: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    section = {"rpn": "rpn", "fastrcnn": "fast_rcnn"}[stage]
    more = [f"{section}.training.{change}" for change in ("steps=9", "milestones=[4, 8]", "keep_best=null")]
    if stage == "fastrcnn":
        shutil.copytree(copy / "proposals", tmp_path / "whole/proposals")
        shutil.copy(copy / "rpn.pt", tmp_path / "whole")
    tool(f"train_{stage}", *arguments_for(config, data, tmp_path / "whole", more))
    tool(f"train_{stage}", *arguments_for(config, data, copy, more), "--resume")
    assert_same_weights(tmp_path / f"whole/{stage}.pt", copy / f"{stage}.pt")
    assert "this run had 6 steps and goes on after 6 to 9: the result is that of 9 steps" in remarks(copy, stage)
    load: Any = load_rpn if stage == "rpn" else load_fast_rcnn
    assert load(copy / f"{stage}.pt").provenance["steps"] == 9
    assert "restarts" not in load(copy / f"{stage}.pt").provenance


def test_more_steps_of_a_cosine_say_what_they_mean_and_the_file_tells_of_it(
    config: Path, data: Path, tmp_path: Path
) -> None:
    arguments = arguments_for(config, data, tmp_path, COSINE)
    tool("train_rpn", *arguments)
    tool("train_rpn", *arguments, "rpn.training.steps=12", "--resume")
    assert (
        "this run had 6 steps and goes on after 6 to 12: its cosine was over 6 steps; the learning rate rises again to "
        "0.005, that of a cosine over 12 steps, and falls to 0 with it. The result is not that of 12 steps from the "
        "beginning"
    ) in remarks(tmp_path, "rpn")
    rate = 0.01 * 0.5 * (1 + math.cos(math.pi * 7 / 12))
    assert entries(tmp_path, "rpn", "train")[3]["lr"] == pytest.approx(rate)
    assert load_rpn(tmp_path / "rpn.pt").provenance["restarts"] == [{"after": 6, "cosine_over": 6}]
    tool("train_rpn", *arguments, "rpn.training.steps=14", "--resume")
    assert load_rpn(tmp_path / "rpn.pt").provenance["restarts"] == [
        {"after": 6, "cosine_over": 6},
        {"after": 12, "cosine_over": 12},
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["rpn.training.steps=5"], "config.rpn.training.steps: 6 in the checkpoint, 5 now"),
        (
            ["rpn.training.steps=9", "rpn.training.milestones=[3]"],
            "config.rpn.training.milestones: [4] in the checkpoint, [3] now",
        ),
        (
            ["rpn.training.steps=9", "rpn.training.learning_rate=0.02"],
            "learning_rate: 0.01 in the checkpoint, 0.02 now",
        ),
    ],
)
def test_other_steps_are_another_run(changes: list[str], named: str, copy: Path, config: Path, data: Path) -> None:
    result = tool("train_rpn", *arguments_for(config, data, copy, changes), "--resume", check=False)
    assert result.returncode == 1
    assert named in result.stderr


# Detectors of checkpoints


def test_any_checkpoint_becomes_a_detector(copy: Path, config: Path, data: Path, tmp_path: Path) -> None:
    """That of step 4 of 6, and that of the last step: the same files as the training's."""
    written = tool("checkpoint_to_detector", copy / "fastrcnn/checkpoint_00000006.pt").stdout.split()
    folder = copy / "fastrcnn_after_6"
    assert written == [str(folder / "fastrcnn.pt"), str(folder / "detector.pt")]
    assert_same_weights(copy / "detector.pt", folder / "detector.pt")
    one, other = load_detector(copy / "detector.pt"), load_detector(folder / "detector.pt")
    assert (one.config, one.categories) == (other.config, other.categories)
    assert other.rpn.provenance == one.rpn.provenance
    tool("eval_coco", "--weights", folder / "detector.pt", "--images", 0)

    tool("checkpoint_to_detector", copy / "rpn/checkpoint_00000004.pt", "--output", tmp_path / "four")
    four = load_rpn(tmp_path / "four/rpn.pt")
    assert four.provenance["steps"] == 4
    stored = load_artifact(copy / "rpn/checkpoint_00000004.pt", "checkpoint")["network"]
    assert all(torch.equal(value, stored[name]) for name, value in four.network.state_dict().items())

    again = tool("checkpoint_to_detector", copy / "fastrcnn/checkpoint_00000006.pt", check=False)
    assert again.returncode == 1
    assert f"{folder / 'fastrcnn.pt'} is there already: choose another folder with --output" in again.stderr
    # With another RPN than that of the proposals only if it is named.
    shutil.copy(tmp_path / "four/rpn.pt", copy / "rpn.pt")
    arguments = [copy / "fastrcnn/checkpoint_00000004.pt", "--output", tmp_path / "other"]
    refused = tool("checkpoint_to_detector", *arguments, check=False)
    assert "is not the RPN on whose proposals" in refused.stderr
    assert not (tmp_path / "other").exists()
    said = tool("checkpoint_to_detector", *arguments, "--rpn", copy / "rpn.pt").stderr
    assert "is not the RPN on whose proposals" in said
    load_detector(tmp_path / "other/detector.pt")


@pytest.mark.parametrize("fault", ["no description", "half a description", "other weights", "--rpn", "no rpn.pt"])
def test_a_checkpoint_that_is_no_network_of_a_detector_is_refused(fault: str, copy: Path, tmp_path: Path) -> None:
    path, extra = copy / "rpn/checkpoint_00000006.pt", []
    content = load_artifact(path, "checkpoint")
    for key in ("format", "version", "kind"):
        content.pop(key)
    if fault == "no description":
        content["model"], told = {}, "Continue that run with --resume; the next checkpoint describes it"
    elif fault == "half a description":
        content["model"].pop("categories")
        told = "an entry is missing or of the wrong kind"
    elif fault == "other weights":
        content["model"]["config"]["rpn"]["channels"] = 17
        told = "its weights do not fit the network that its configuration names"
    elif fault == "--rpn":
        extra, told = ["--rpn", copy / "rpn.pt"], "is of an RPN: --rpn belongs to a checkpoint of a Fast R-CNN"
    else:
        (copy / "rpn.pt").unlink()
        path, told = copy / "fastrcnn/checkpoint_00000006.pt", "rpn.pt: no trained RPN for the detector of"
    if fault in ("no description", "half a description", "other weights"):
        save_artifact(path, "checkpoint", **content)
    result = tool("checkpoint_to_detector", path, *extra, check=False)
    assert result.returncode == 1
    assert told in result.stderr
    assert not list(copy.glob("*_after_*"))


# Fine-tuning


@pytest.fixture
def other_classes(data: Path, tmp_path: Path) -> list[str]:
    """The classes in another order and with other ids, one under another name; as changes of the configuration."""
    changes = []
    for split in ("train", "test"):
        content = json.loads((data / f"annotations/instances_{split}.json").read_text())
        ids = {category["id"]: 100 - category["id"] for category in content["categories"]}
        for category in content["categories"]:
            category["id"] = ids[category["id"]]
            category["name"] = {"star": "asterisk"}.get(category["name"], category["name"])
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[annotation["category_id"]]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
        changes.append(f"data.{split}.annotations={tmp_path / f'{split}.json'}")
    return changes


def test_fine_tuning_keeps_common_classes_and_starts_the_others_anew(
    run: Path, config: Path, data: Path, tmp_path: Path, other_classes: list[str]
) -> None:
    """At a rate of nearly 0, so that the written weights are the initial ones."""
    still = [f"{n}.training.learning_rate=1e-30" for n in ("rpn", "fast_rcnn")]
    changes = [*other_classes, *still, f"init_from={run / 'detector.pt'}", "fast_rcnn.box_stds=[0.2, 0.2, 0.4, 0.1]"]
    arguments = arguments_for(config, data, tmp_path / "new", changes)
    said = tool("train_rpn", *arguments).stderr
    assert f"the RPN starts from {run / 'detector.pt'}: all weights are kept" in said
    said = tool("train_fastrcnn", *arguments).stderr
    assert "classes kept: cross, ring, triangle, square, disc; classes starting anew: asterisk; " in said
    assert "classes not used: star" in said
    old, new = load_detector(run / "detector.pt"), load_detector(tmp_path / "new/detector.pt")
    rpn = old.rpn.network.state_dict()
    assert all(torch.equal(value, rpn[name]) for name, value in new.rpn.network.state_dict().items())
    before, after = old.fast_rcnn.network, new.fast_rcnn.network
    for name, value in after.state_dict().items():
        if not name.startswith(("class_logits", "box_targets")):
            torch.testing.assert_close(value, before.state_dict()[name], rtol=0, atol=1e-12)
    features = torch.randn(5, before.class_logits.in_features, generator=torch.Generator().manual_seed(0))
    regions = torch.tensor([[10.0, 10.0, 40.0, 50.0]]).expand(5, 4)
    torch.testing.assert_close(after.class_logits(features)[:, 0], before.class_logits(features)[:, 0])
    for name in ("disc", "square", "triangle", "ring", "cross"):
        here, there = new.categories.names.index(name), old.categories.names.index(name)
        torch.testing.assert_close(
            after.class_logits(features)[:, here + 1], before.class_logits(features)[:, there + 1]
        )
        boxes = [
            network.coder.decode(network.box_targets(features).unflatten(1, (-1, 4))[:, place], regions)
            for network, place in ((after, here), (before, there))
        ]
        torch.testing.assert_close(boxes[0], boxes[1])
    anew = new.categories.names.index("asterisk")
    assert not torch.equal(
        after.class_logits.weight[anew + 1], before.class_logits.weight[old.categories.names.index("star") + 1]
    )
    assert new.fast_rcnn.provenance["backbone"]["weights"]["kind"] == "init_from"


def test_the_same_classes_and_anchors_of_another_number(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    changes = ["rpn.anchor_sizes=[16, 32, 64]", f"init_from={run / 'detector.pt'}", "rpn.training.learning_rate=1e-30"]
    said = tool("train_rpn", *arguments_for(config, data, tmp_path, changes)).stderr
    assert (
        "its output layers start anew; its anchors were others: "
        "rpn.anchor_sizes: [24.0,48.0] there, [16.0,32.0,64.0] now"
    ) in said
    old, new = (load_rpn(folder / "rpn.pt").network for folder in (run, tmp_path))
    torch.testing.assert_close(old.head.conv.weight, new.head.conv.weight, rtol=0, atol=1e-12)
    assert new.head.objectness.weight.shape[0] == 3


@pytest.mark.parametrize(
    ("stage", "change", "told"),
    [
        ("rpn", "backbone.planes=16", "backbone.planes: 8 in the file, 16 by the configuration"),
        ("rpn", "rpn.channels=8", "rpn.channels: 16 in the file, 8 by the configuration"),
        ("rpn", "backbone.norm=batch", 'backbone.norm: "group" in the file, "batch" by the configuration'),
        ("fastrcnn", "fast_rcnn.box_head=two_layers", "fast_rcnn.box_head"),
    ],
)
def test_weights_of_another_structure_are_refused_with_the_keys(
    stage: str, change: str, told: str, run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    changes = [change, f"init_from={run / 'detector.pt'}"]
    extra = ["--rpn", run / "rpn.pt"] if stage == "fastrcnn" else []
    result = tool(f"train_{stage}", *arguments_for(config, data, tmp_path, changes), *extra, check=False)
    assert result.returncode == 1
    assert "holds a network of another structure" in result.stderr
    assert told in result.stderr


def test_init_from_needs_the_network_that_is_trained_and_is_part_of_the_run(
    run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    wrong = arguments_for(config, data, tmp_path / "wrong", [f"init_from={run / 'rpn.pt'}"])
    result = tool("train_fastrcnn", *wrong, "--rpn", run / "rpn.pt", check=False)
    assert "is a trained RPN" in result.stderr
    arguments = arguments_for(config, data, tmp_path / "run")
    tool("train_rpn", *arguments, f"init_from={run / 'rpn.pt'}")
    resumed = tool("train_rpn", *arguments, "--resume", check=False)
    assert "backbone.weights" in resumed.stderr
    assert "belongs to another run" in resumed.stderr
    shutil.copy(run / "rpn.pt", tmp_path / "moved.pt")  # the file, not its name, is what counts
    tool("train_rpn", *arguments, f"init_from={tmp_path / 'moved.pt'}", "--resume")
