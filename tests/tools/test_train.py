"""train.py: one command is the three tools, and goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.detection.pipeline import MINIATURE, arguments_for, kill_before_second_checkpoint, tool


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "miniature.yaml"
    path.write_text(MINIATURE)
    return path


def weights(detector: Path) -> dict[str, torch.Tensor]:
    networks = torch.load(detector, weights_only=True)["networks"]
    return {f"{network}.{name}": value for network, state in networks.items() for name, value in state.items()}


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
    expected, found = weights(three / "detector.pt"), weights(one / "detector.pt")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
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
