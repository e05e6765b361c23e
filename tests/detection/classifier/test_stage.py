"""A classifier's training takes nothing of the detectors; and a file counts as its own only if the file says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.classifier.classifier_file import load_classifier
from tests.detection.classifier.test_classifier import MINIATURE, assert_same_weights
from tests.detection.pipeline import REPOSITORY, arguments_for, tool

FOREIGN = ("detection.networks", "detection.geometry", "detection.kernels", "detection.experiment", "torchvision")
PROGRAM = f"""
import sys
import detection.classifier.stage, detection.classifier.public_weights
loaded = [name for name in sys.modules if any(name == part or name.startswith(part + ".") for part in {FOREIGN})]
boxes = [name for name in ("detection.data.index", "detection.data.dataset", "detection.data.proposal_store")
         if name in sys.modules]
print(loaded + boxes)
"""


def test_it_loads_nothing_of_the_detectors() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert said.strip() == "[]"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    rng = np.random.default_rng(3)
    for split in ("train", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(root / split / name / f"{i}.png")
    return root


def test_a_file_of_an_earlier_run_is_not_taken_for_this_one_s(data: Path, tmp_path: Path) -> None:
    """Trained anew with another rate, and killed after the last checkpoint, before its file was written."""
    (tmp_path / "config.yaml").write_text(MINIATURE)
    output = tmp_path / "run"
    other = ["training.learning_rate=0.05"]
    tool("train_classifier", *arguments_for(tmp_path / "config.yaml", data, output))
    first = (output / "classifier.pt").read_bytes()
    (output / "classifier").rename(tmp_path / "away")
    tool("train_classifier", *arguments_for(tmp_path / "config.yaml", data, output, other))
    second = output / "classifier.pt"
    second.rename(tmp_path / "second.pt")
    second.write_bytes(first)
    tool("train_classifier", *arguments_for(tmp_path / "config.yaml", data, output, other), "--resume")
    assert_same_weights(tmp_path / "second.pt", second, atol=0, rtol=0)
    assert load_classifier(second).config.training.learning_rate == 0.05


@pytest.mark.parametrize("name", ["config.yaml", "classifier.pt"])
def test_no_file_is_replaced_that_no_training_wrote(name: str, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(MINIATURE)
    (tmp_path / name).write_text(MINIATURE)
    refused = tool("train_classifier", *arguments_for(config, data, tmp_path), check=False)
    assert refused.returncode == 1
    assert f"{tmp_path / name}: would be replaced, and no training wrote it" in refused.stderr
    assert (tmp_path / name).read_text() == MINIATURE


def test_resuming_a_finished_run_leaves_its_file_and_figures_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(MINIATURE)
    arguments = arguments_for(tmp_path / "config.yaml", data, tmp_path / "run")
    tool("train_classifier", *arguments)
    before = (tmp_path / "run/classifier.pt").read_bytes()
    said = tool("train_classifier", *arguments, "--resume", "runtime.test_batch=3").stderr
    assert "all 4 steps were done before" in said
    assert (tmp_path / "run/classifier.pt").read_bytes() == before
    assert set(load_classifier(tmp_path / "run/classifier.pt").provenance["test"]) == {"top1_error", "top5_error"}
