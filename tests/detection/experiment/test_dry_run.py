"""Dry runs: the figures of the plan against those of a real run in miniature."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from detection.data.demo import make_demo_dataset
from detection.data.proposal_store import ProposalStore
from detection.experiment import dry_run as plan
from detection.training import distributed, pace
from detection.training import dry_run as measuring
from tests.detection.pipeline import REPOSITORY, arguments_for, tool


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=12, test=2)
    return folder


@pytest.fixture(autouse=True)
def _steps_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_SECONDS", 0.0)


def rows(text: str) -> dict[str, str]:
    """The plan's lines by their first word; "written" has a path a line."""
    found: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        key = line[:18].strip() or key
        found[key] = "\n".join(filter(None, [found.get(key, ""), line[18:]]))
    return found


def planned(stage: str, config: Path, data: Path, output: Path, *extra: object, changes: Sequence[str] = ()) -> str:
    return tool(f"train_{stage}", *arguments_for(config, data, output, changes), *extra, "--dry-run").stdout


def mebibytes(text: str) -> float:
    number, unit = text.split()[:2]
    return float(number) * {"MiB": 1, "GiB": 1024}[unit]


def seconds(text: str) -> float:
    hours, minutes, rest = ("0:" * (2 - text.count(":")) + text).split(":")
    return 3600 * int(hours) + 60 * int(minutes) + int(rest)


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_time_epochs_disk_and_files_are_those_of_the_real_run(
    stage: str, config: Path, data: Path, run: Path, tmp_path: Path
) -> None:
    shutil.copy(run / "rpn.pt", tmp_path)
    network = stage.replace("fastrcnn", "fast_rcnn")
    found = rows(planned(stage, config, data, tmp_path, changes=[f"{network}.training.steps=100000"]))
    images = int(found["images"])
    annotations = json.loads((data / "annotations/instances_train.json").read_text())["annotations"]
    assert images == len({one["image_id"] for one in annotations if not one["iscrowd"]})
    assert found["steps"] == f"100000, {100000 * 4 / images:.2f} epochs"
    step = float(found["a step"].split()[0])
    assert step > 0.001
    assert float(found["the first one"].split()[1]) > 0
    assert seconds(found["time"]) == pytest.approx(100000 * step, abs=52)  # half a millisecond a step
    weights, checkpoint = run / f"{stage}.pt", run / stage / "checkpoint_00000006.pt"
    size = 3 * weights.stat().st_size + 4 * checkpoint.stat().st_size  # two and the best; one is being written
    # What is no weight, such as the configuration, counts beside so small a network.
    assert mebibytes(found["disk"]) == pytest.approx(size / 2**20, rel=0.2, abs=0.06)
    written = [Path(line).relative_to(tmp_path) for line in found["written"].splitlines()]
    real = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    for pattern in written:
        assert any(fnmatch.fnmatch(str(path), str(pattern)) for path in real), pattern
    others = (
        ("rpn.pt", "rpn/*")
        if stage == "fastrcnn"
        else ("fastrcnn.pt", "detector.pt", "README.md", "fastrcnn/*", "proposals/*")
    )
    for path in real:
        assert any(fnmatch.fnmatch(str(path), str(pattern)) for pattern in (*written, *others)), path
    assert "tensorboard" not in found["written"]
    assert "/tensorboard" in planned(stage, config, data, tmp_path, changes=["runtime.tensorboard=true"])


def test_the_proposals_take_their_size_twice_while_they_are_joined(
    config: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["rpn.training_proposals.after_nms=200000"]
    found = rows(planned("fastrcnn", config, data, tmp_path, changes=changes))
    size = int(found["images"]) * 200_000 * 20 / 2**20
    assert mebibytes(found["disk"]) == pytest.approx(2 * size, rel=0.01)
    assert "TOO LITTLE" not in found["disk"]
    monkeypatch.setattr(measuring.shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(1.9 * size * 2**20)))
    assert rows(planned("fastrcnn", config, data, tmp_path, changes=changes))["disk"].endswith("free: TOO LITTLE")


def test_the_processes_share_the_proposing_that_is_measured(
    config: Path, data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, ahead = time.monotonic, [0.0]

    def proposals_of(*arguments: object) -> ProposalStore:
        ahead[0] += 3600
        return ProposalStore(run / "proposals/train.st")

    monkeypatch.setattr(plan.time, "monotonic", lambda: clock() + ahead[0])
    monkeypatch.setattr(plan, "proposals_of_some", proposals_of)
    monkeypatch.setattr(measuring, "world_size", lambda: 2)
    found = rows(planned("fastrcnn", config, data, tmp_path))
    # All images were proposed on, as the training set is so small: an hour it is, whoever takes part.
    assert re.search(r"about 1:00:0\d$", found["proposals first"])


def test_the_peak_is_not_what_is_held_in_the_end() -> None:
    """In a process of its own, which holds no freed memory that the allocation could reuse."""
    code = """
import torch
from detection.training.dry_run import _peak_memory
from detection.training.memory import memory_in_use
cpu = torch.device("cpu")
before = memory_in_use(cpu)
torch.ones(64 << 20)  # 256 MiB, freed at once
print(_peak_memory(cpu) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert float(done.stdout) > 200


def test_a_store_that_stands_is_not_made_again(config: Path, data: Path, run: Path, tmp_path: Path) -> None:
    before = sorted(path for path in run.rglob("*"))
    assert "proposals" not in planned("fastrcnn", config, data, run)
    stale = planned("fastrcnn", config, data, run, changes=["rpn.training_proposals.nms_iou=0.6"])
    assert "proposals first" in stale
    assert str(run / "proposals/train.st") in rows(stale)["written"]
    assert sorted(path for path in run.rglob("*")) == before
    named = planned("fastrcnn", config, data, tmp_path, "--proposals", run / "proposals/train.st")
    assert "proposals first" not in named
    assert f"{tmp_path / 'rpn.pt'} is not there yet" in named


def test_proposals_that_would_be_refused_are_refused(config: Path, data: Path, run: Path, tmp_path: Path) -> None:
    arguments = [*arguments_for(config, data, run), "--dry-run", "--proposals"]
    missing = tool("train_fastrcnn", *arguments, tmp_path / "no.st", check=False)
    assert missing.returncode == 1
    assert "no.st" in missing.stderr
    tool("train_rpn", *arguments_for(config, data, tmp_path / "other", ["seed=5", "rpn.training.schedule=cosine"]))
    arguments = [*arguments_for(config, data, tmp_path / "other"), "--dry-run", "--proposals"]
    assert "other RPN weights" in tool("train_fastrcnn", *arguments, run / "proposals/train.st", check=False).stderr


@pytest.mark.parametrize("stage", ["rpn", "fastrcnn"])
def test_of_several_processes_one_tells_the_plan(
    stage: str, config: Path, data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned(stage, config, data, run).count("peak memory") == 1
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    assert planned(stage, config, data, run) == ""
