"""train.py: one command is the three tools, and goes on where it was stopped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from detection.training import pace
from tests.detection.pipeline import (
    TINY,
    arguments_for,
    assert_same_weights,
    kill_before_second_checkpoint,
    start,
    tool,
)


def test_killed_and_repeated_it_ends_with_the_weights_of_the_three_tools(
    config: Path, data: Path, tmp_path: Path
) -> None:
    three, one = tmp_path / "three", tmp_path / "one"
    for name in ("train_rpn", "train_fastrcnn"):
        tool(name, *arguments_for(config, data, three))
    figures = tool("eval_coco", "--weights", three / "detector.pt").stdout.splitlines()
    kill_before_second_checkpoint("train", *arguments_for(config, data, one))
    assert not (one / "rpn.pt").exists()
    said = tool("train", *arguments_for(config, data, one))
    assert_same_weights(three / "detector.pt", one / "detector.pt")
    assert said.stdout.splitlines()[:12] == figures[:12]
    assert (one / "evaluation" / "report.html").is_file()

    before = {path: path.read_bytes() for path in one.glob("*.pt")}
    again = tool("train", *arguments_for(config, data, one))
    assert again.stderr.count("all 6 steps were done before") == 2
    assert {path: path.read_bytes() for path in one.glob("*.pt")} == before
    other = tool("train", *arguments_for(config, data, one), "rpn.training.learning_rate=0.5", check=False)
    assert other.returncode == 1
    assert "learning_rate" in other.stderr


def test_without_a_test_split_the_detector_is_not_evaluated(config: Path, data: Path, tmp_path: Path) -> None:
    text = config.read_text()
    test = next(line for line in text.splitlines() if line.startswith("  test: "))
    alone = tmp_path / "alone.yaml"
    alone.write_text(text.replace(test + "\n", ""))
    said = tool("train", *arguments_for(alone, data, tmp_path / "run"))
    assert "is not evaluated" in said.stderr
    assert said.stdout == ""
    assert (tmp_path / "run" / "detector.pt").is_file()
    assert not (tmp_path / "run" / "evaluation").exists()


def test_a_folder_of_data_is_enough(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = tool("train", "--data", shapes, "--device", "cpu", *TINY)
    run = tmp_path / "runs" / "shapes"
    assert "measuring how long a step takes here" in said.stderr
    for name in ("shapes.yaml", "config.yaml", "rpn.pt", "detector.pt", "evaluation/report.html", "chain.json"):
        assert (run / name).is_file(), name
    assert re.search(r"rpn 3/3 .* left, about \d+:\d\d with all that follows", said.stderr)
    assert said.stderr.count("data.train: 6 images") == 1, "every stage opens the data; the log says it once"
    figures = said.stdout
    assert "Average Precision" in figures

    before = {path: path.read_bytes() for path in (*run.glob("*.pt"), run / "evaluation" / "report.html")}
    monkeypatch.setattr(pace, "train_stage", None)  # nothing is measured again
    again = tool("train", "--data", shapes, "--device", "cpu", *TINY)
    assert again.stderr.count("all 3 steps were done before") == 2
    assert "not evaluated again" in again.stderr
    assert "looking at every image" not in again.stderr
    assert again.stdout == figures
    assert {path: path.read_bytes() for path in before} == before

    # Without the checkpoints the networks are taken if they fit.
    shutil.rmtree(run / "rpn")
    shutil.rmtree(run / "fastrcnn")
    shutil.rmtree(run / "proposals")
    taken = tool("train", "--data", shapes, "--device", "cpu", *TINY)
    assert taken.stderr.count("is there and fits: not trained again") == 2
    assert {path: path.read_bytes() for path in before} == before
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    changed = tool("train", "--data", shapes, "--device", "cpu", *TINY, "fast_rcnn.samples=9")
    assert changed.stderr.count("is there and fits: not trained again") == 1
    assert (run / "detector.pt").read_bytes() != before[run / "detector.pt"]

    trained = run / "detector.pt"
    new = tool("train", "--data", shapes, "--output", tmp_path / "next", "--from", trained, "--device", "cpu", *TINY)
    assert f"starts from {trained}" in new.stderr


def test_changed_labels_are_checked_again(config: Path, data: Path, tmp_path: Path) -> None:
    own = tmp_path / "data"
    shutil.copytree(data, own)
    run = tmp_path / "run"
    said = tool("train", *arguments_for(config, own, run))
    assert "looking at every image" in said.stderr
    image = next((own / "test").iterdir())
    labels = own / "annotations" / "instances_test.json"
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"][2] += 1
    labels.write_text(json.dumps(content))
    image.write_bytes(b"damaged")
    refused = tool("train", *arguments_for(config, own, run), check=False)
    assert refused.returncode == 1
    assert image.name in refused.stderr


def test_minutes_belong_to_a_new_configuration(config: Path, data: Path, tmp_path: Path) -> None:
    said = tool("train", *arguments_for(config, data, tmp_path), "--minutes", "3", check=False)
    assert said.returncode == 1
    assert "tools/new_config.py --minutes" in said.stderr


def test_two_processes_do_the_same(shapes: Path, tmp_path: Path) -> None:
    said = tool("train", "--data", shapes, "--output", tmp_path, "--device", "cpu", *TINY, processes=2)
    assert said.returncode == 0
    assert said.stdout.count("area=   all | maxDets=  1 ]") == 1, "one of the two prints"
    assert (tmp_path / "detector.pt").is_file()
    assert (tmp_path / "shapes.yaml").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_any_time_the_same_command_goes_on(
    kind: signal.Signals, config: Path, data: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tool("train", *arguments_for(config, data, whole))
    for attempt in range(30):
        process = start("train", *arguments_for(config, data, stopped))
        time.sleep(2 + 0.4 * attempt)
        process.send_signal(kind)
        process.communicate()
        assert process.returncode in (0, 130, 143, -kind), process.returncode
        if process.returncode == 0:
            break
    tool("train", *arguments_for(config, data, stopped))
    assert_same_weights(whole / "detector.pt", stopped / "detector.pt")
