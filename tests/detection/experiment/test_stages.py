"""What a stage refuses, takes up, and leaves alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import detection.data.proposal_store as proposal_store
import detection.data.proposal_writer as proposal_writer
from detection.config_file import load_config
from detection.data.proposal_store import ProposalStore
from detection.experiment import dry_run, proposing, stages
from detection.experiment.model_files import load_rpn
from detection.training.stage import Stage
from tests.detection.pipeline import arguments_for, assert_same_weights, tool


@pytest.mark.parametrize(
    ("stage", "change"), [("rpn", "rpn.samples=7"), ("fastrcnn", "fast_rcnn.samples=7"), ("rpn", "seed=3")]
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_refused_run_leaves_the_configuration_of_the_one_before(
    stage: str, change: str, resume: bool, copy: Path, config: Path, data: Path
) -> None:
    before = (copy / "config.yaml").read_bytes()
    arguments = [*arguments_for(config, data, copy, [change]), *(["--resume"] if resume else [])]
    refused = tool(f"train_{stage}", *arguments, check=False)
    assert refused.returncode == 1
    assert (change.split("=")[0].split(".")[-1] if resume else "--resume") in refused.stderr
    assert (copy / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("rpn", "config.yaml"),
        ("rpn", "rpn.pt"),
        ("fastrcnn", "fastrcnn.pt"),
        ("fastrcnn", "detector.pt"),
        ("rpn", None),
    ],
)
def test_no_file_is_replaced_that_no_training_wrote(
    stage: str, name: str | None, run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    """A user's folder with files of these names, or, if there is no name, a run's whose configuration was edited."""
    mine = tmp_path / (name or "config.yaml")
    mine.write_bytes(b"name: precious" if name else (run / "config.yaml").read_bytes().replace(b"seed: 0", b"seed: 1"))
    before = mine.read_bytes()
    extra = ["--rpn", run / "rpn.pt"] if stage == "fastrcnn" else []
    refused = tool(f"train_{stage}", *arguments_for(config, data, tmp_path), *extra, check=False)
    assert refused.returncode == 1
    assert (
        f"{mine}: would be replaced, and no training wrote it, or it was changed since; name another" in refused.stderr
    )
    assert mine.read_bytes() == before
    assert not list(tmp_path.rglob("*.st"))


@pytest.mark.parametrize(
    ("stage", "change", "named"),
    [
        ("rpn", "data.train.limit=8", "images: "),
        ("fastrcnn", "data.train.limit=8", "images: "),
        ("fastrcnn", "rpn.training_proposals.after_nms=30", "proposal_limit: 40 in the checkpoint, 30 now"),
    ],
)
def test_other_training_images_or_proposals_are_another_run(
    stage: str, change: str, named: str, copy: Path, config: Path, data: Path
) -> None:
    extra = ["--proposals", copy / "proposals/train.st"] if stage == "fastrcnn" else []
    result = tool(f"train_{stage}", *arguments_for(config, data, copy, [change]), *extra, "--resume", check=False)
    assert result.returncode == 1
    assert "belongs to another run" in result.stderr
    assert named in result.stderr


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_what_cannot_matter_to_a_training_may_change(stage: str, copy: Path, config: Path, data: Path) -> None:
    changes = [
        "rpn.test_proposals.after_nms=5", "fast_rcnn.min_score=0.3", "fast_rcnn.nms_iou=0.6", "fast_rcnn.detections=7",
        "data.test.limit=1", "data.skip_unreadable=true", "data.test_scales=[80]", "data.test_flip=true",
        "fast_rcnn.nms=gaussian", "fast_rcnn.nms_across_classes=true", "fast_rcnn.box_voting_iou=0.8",
        *(f"{network}.training.{key}" for network in ("rpn", "fast_rcnn")
          for key in ("images_per_device=2", "checkpoint_every=5", "log_every=1")),
    ]  # fmt: skip
    if stage == "rpn":
        changes += ["data.test_shorter_side=64", "rpn.training_proposals.nms_iou=0.6", "fast_rcnn.samples=7"]
    result = tool(f"train_{stage}", *arguments_for(config, data, copy, changes), "--resume")
    assert "continuing after step 6" in result.stderr
    assert "all 6 steps were done before" in result.stderr
    assert f"written: {copy / ('rpn.pt' if stage == 'rpn' else 'detector.pt')}; next: tools/" in result.stderr


def test_a_half_written_store_is_taken_up_whatever_else_has_changed(
    run: Path, config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, asked = proposing.proposals_of, []

    def until_killed(*arguments: Any, pending: np.ndarray) -> Iterator[Any]:
        asked.append(len(pending))
        for number, found in enumerate(inner(*arguments, pending=pending)):
            if number == 5 and len(asked) == 1:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(proposal_writer, "CHUNK_BYTES", 1)  # each image is on the disk at once
    monkeypatch.setattr(proposing, "proposals_of", until_killed)
    arguments = [*arguments_for(config, data, tmp_path), "--rpn", run / "rpn.pt"]
    assert tool("train_fastrcnn", *arguments, check=False).returncode == 130
    # Now by the other tool, with other values that the proposals do not depend on.
    changes = ["runtime.workers=1", "fast_rcnn.training.steps=9", "fast_rcnn.min_score=0.2"]
    tool("propose", "--weights", run / "rpn.pt", "--output", tmp_path, *changes)
    whole, mended = ProposalStore(run / "proposals/train.st"), ProposalStore(tmp_path / "proposals/train.st")
    assert asked == [len(whole), len(whole) - 5]
    for image_id in whole.image_ids.tolist():
        np.testing.assert_array_equal(mended.boxes(image_id), whole.boxes(image_id))


@pytest.mark.parametrize("case", ["standing", "given", "made", "planned", "measured"])
def test_a_store_is_verified_once(
    case: str, copy: Path, config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified, inner = [], proposal_store.find_damage

    def find_damage(path: Path) -> tuple[int, int] | None:
        verified.append(path)
        return inner(path)

    monkeypatch.setattr(proposal_store, "find_damage", find_damage)
    store = copy / "proposals/train.st"
    arguments: list[object] = [*arguments_for(config, data, copy), "--resume"]
    if case == "given":
        arguments += ["--proposals", store.rename(tmp_path / "given.st")]
    elif case == "made":
        store.unlink()
    elif case == "planned":
        arguments[-1] = "--dry-run"
    elif case == "measured":
        arguments = ["--proposals", store, "--output", tmp_path / "out"]
    tool("eval_coco" if case == "measured" else "train_fastrcnn", *arguments)
    assert verified == [tmp_path / "given.st" if case == "given" else store]


def test_an_rpn_of_an_earlier_run_is_not_taken_for_this_one_s(
    copy: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    """Trained anew with another rate, and killed after the last checkpoint, before its file was written."""
    arguments = arguments_for(config, data, copy, ["rpn.training.learning_rate=0.02"])
    earlier = (copy / "rpn.pt").read_bytes()
    shutil.rmtree(copy / "rpn")
    tool("train_rpn", *arguments)
    (copy / "rpn.pt").rename(tmp_path / "second.pt")
    (copy / "rpn.pt").write_bytes(earlier)
    tool("train_rpn", *arguments, "--resume")
    assert_same_weights(tmp_path / "second.pt", copy / "rpn.pt")
    assert load_rpn(copy / "rpn.pt").config.rpn.training.learning_rate == 0.02
    (copy / "rpn.pt").write_bytes(earlier[:-100])  # nor is half a file
    tool("train_rpn", *arguments, "--resume")
    assert_same_weights(tmp_path / "second.pt", copy / "rpn.pt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.test_shorter_side=64", r"proposals.sides: [96, 144] in the checkpoint, [64, 144] now"),
        ("rpn.training_proposals.nms_iou=0.6", "proposals.limits.nms_iou: 0.7 in the checkpoint, 0.6 now"),
        ("fast_rcnn.box_statistics=empirical", None),
        ("fast_rcnn.training.momentum=0.8", "config.fast_rcnn.training.momentum: 0.9 in the checkpoint, 0.8 now"),
    ],
)
def test_a_refused_resume_is_told_by_its_keys_before_proposals_are_made_anew(
    change: str, told: str | None, copy: Path, config: Path, data: Path
) -> None:
    store = copy / "proposals/train.st"
    before = store.read_bytes(), store.stat().st_mtime_ns
    result = tool("train_fastrcnn", *arguments_for(config, data, copy, [change]), "--resume", check=False)
    assert result.returncode == 1
    assert "belongs to another run" in result.stderr
    if told is not None:  # measured statistics are known only from the proposals
        assert told in result.stderr
        assert "proposing" not in result.stderr
    assert (store.read_bytes(), store.stat().st_mtime_ns) == before


def test_another_rpn_is_told_by_what_it_was_trained_with(copy: Path, config: Path, data: Path) -> None:
    """Not by two hashes, and not after hours of proposing."""
    store = (copy / "proposals/train.st").read_bytes()
    shutil.rmtree(copy / "rpn")
    tool("train_rpn", *arguments_for(config, data, copy, ["rpn.training.learning_rate=0.02"]))
    result = tool("train_fastrcnn", *arguments_for(config, data, copy), "--resume", check=False)
    assert result.returncode == 1
    assert "rpn.config.rpn.training.learning_rate: 0.01 in the checkpoint, 0.02 now" in result.stderr
    assert "sha256" not in result.stderr
    assert (copy / "proposals/train.st").read_bytes() == store


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_an_rpn_with_other_anchors_than_configured_is_refused_with_the_keys(
    option: list[str], run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    """The run's config.yaml would else state anchors that the detector does not have."""
    changes = ["rpn.anchor_sizes=[16, 32]", "rpn.channels=8"]
    arguments = [*arguments_for(config, data, tmp_path, changes), "--rpn", run / "rpn.pt", *option]
    result = tool("train_fastrcnn", *arguments, check=False)
    assert result.returncode == 1
    assert "rpn.anchor_sizes: [24.0,48.0] in the file, [16.0,32.0] by the configuration" in result.stderr
    assert "To take it: 'rpn.anchor_sizes=[24.0,48.0]' rpn.channels=16" in result.stderr
    assert not (tmp_path / "proposals").exists()


def test_an_rpn_that_was_made_for_images_of_another_size_is_told(
    run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    changes = ["data.test_shorter_side=64", "fast_rcnn.training.steps=1", "fast_rcnn.training.milestones=[]"]
    said = tool("train_fastrcnn", *arguments_for(config, data, tmp_path, changes), "--rpn", run / "rpn.pt").stderr
    assert (
        f"{run / 'rpn.pt'} was made for images of another size: data.test_shorter_side: 96 for the RPN, 64 now" in said
    )


def test_a_stage_is_measured_and_trained_as_the_same_object(
    config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages_seen: dict[str, Stage] = {}
    for module, name in ((dry_run, "dry_run"), (stages, "run_training")):
        monkeypatch.setattr(module, name, lambda stage, name=name, **_: stages_seen.setdefault(name, stage))
    loaded = load_config(config, [f"data.root={data}", f"output={tmp_path / 'run'}"])
    dry_run.of_rpn(loaded, torch.device("cpu"))
    stages.train_rpn(loaded, torch.device("cpu"))
    planned, trained = stages_seen["dry_run"], stages_seen["run_training"]
    assert planned.training == trained.training == dataclasses.replace(loaded.rpn.training, evaluate_every=6)
    assert (planned.identity, planned.files, planned.images) == (trained.identity, trained.files, trained.images)
    weights = trained.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in planned.network.state_dict().items())
    one, other = (next(iter(stage.batches(stage.training)(3))) for stage in (planned, trained))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.image_ids, other.image_ids)


def test_too_many_processes_are_refused_before_the_proposing(
    run: Path, config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "world_size", lambda: 5)
    arguments = [*arguments_for(config, data, tmp_path / "run"), "--rpn", run / "rpn.pt"]
    result = tool("train_fastrcnn", *arguments, check=False)
    assert result.returncode == 1
    assert "global_batch is 4, fewer images than there are processes (5)" in result.stderr
    assert not (tmp_path / "run/proposals").exists()


def test_three_processes_share_four_images_a_step(run: Path, config: Path, data: Path, tmp_path: Path) -> None:
    """Whatever does not divide: 2, 1 and 1, and the log says that it is more than was asked for. Three steps, as
    rounding then grows."""
    for name, images, processes in (("alone", 4, 1), ("shared", 1, 3)):
        changes = ("steps=3", "milestones=[2]", f"images_per_device={images}")
        arguments = arguments_for(config, data, tmp_path / name, [f"fast_rcnn.training.{change}" for change in changes])
        tool("train_fastrcnn", *arguments, "--rpn", run / "rpn.pt", processes=processes)
    alone, shared = (tmp_path / name / "fastrcnn.pt" for name in ("alone", "shared"))
    assert_same_weights(alone, shared, atol=3e-6, rtol=1e-4)
    remark = json.loads((tmp_path / "shared/fastrcnn/log.jsonl").read_text().splitlines()[0])
    assert remark["kind"] == "remark"
    assert "3 process(es) × 1 micro-batch(es) of up to 2, more than images_per_device (1)" in remark["text"]


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("evaluate", [[], ["{}.training.evaluate_every=2"]])
@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_a_test_split_of_other_classes_is_refused_before_any_training(
    stage: str, evaluate: list[str], options: list[str], run: Path, config: Path, data: Path, tmp_path: Path
) -> None:
    content = json.loads((data / "annotations" / "instances_test.json").read_text())
    content["categories"][0]["name"] = "something else"
    (tmp_path / "test.json").write_text(json.dumps(content))
    section = {"rpn": "rpn", "fastrcnn": "fast_rcnn"}[stage]
    changes = [f"data.test.annotations={tmp_path}/test.json", *(text.format(section) for text in evaluate)]
    rpn = ["--rpn", run / "rpn.pt"] if stage == "fastrcnn" else []
    arguments = [*arguments_for(config, data, tmp_path / "run", changes), *rpn, *options]
    refused = tool(f"train_{stage}", *arguments, check=False)
    assert refused.returncode == 1
    assert "instances_train.json: only the former lists 'something else'" in refused.stderr
    assert not list((tmp_path / "run").rglob("*.pt"))
