"""The same steps from scratch and from a classifier, whose weights the detector does start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import create_classifier
from benchmarks import pretraining
from detection import config as settings
from detection.classifier.classifier_file import TrainedClassifier, load_classifier, save_classifier
from detection.classifier.config import ClassifierConfig, Network
from detection.config_file import load_config
from detection.experiment.builders import build_rpn


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    structure: dict[str, Any] = {"planes": 8, "stem_width": 8}
    network = create_classifier("resnext14_8x16d_small", 2, **structure)
    config = ClassifierConfig(network=Network("resnext14_8x16d_small", **structure))
    path = tmp_path / "classifier.pt"
    save_classifier(path, TrainedClassifier(config, ("a", "b"), network, {}))
    return path


def compare(data: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    output = data.parent / "pretraining.json"
    words = ["--config", str(data.parent / "tiny.yaml"), "--data", str(data), "--classifier", str(classifier)]
    monkeypatch.setattr("sys.argv", ["pretraining", *words, "--output", str(output), *arguments])
    assert pretraining.main() == 0
    result: dict[str, Any] = json.loads(output.read_text())
    return result


def conv1(data: Path, classifier: Path) -> torch.Tensor:
    """What a detector of the configuration begins with."""
    config = load_config(data.parent / "tiny.yaml", [f"backbone.weights={classifier}"])
    return build_rpn(config).backbone.conv1.weight


def test_both_starts_take_turns_and_are_not_run_again(
    data: Path, classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[str | None] = []
    run_ours = pretraining.run_ours

    def noted(config: settings.Config, device: Any) -> dict[str, Any]:
        starts.append(config.backbone.weights)
        return run_ours(config, device)

    monkeypatch.setattr(pretraining, "run_ours", noted)
    first = compare(data, classifier, monkeypatch, "--seeds", "0", "--shares", "0.5")
    assert starts == [None, str(classifier)]
    assert torch.equal(conv1(data, classifier), load_classifier(classifier).network.conv1.weight)
    assert [(one["start"], one["share"], one["seed"]) for one in first["runs"]] == [
        ("from scratch", 0.5, 0),
        ("from the classifier", 0.5, 0),
    ]
    assert [row[:3] for row in first["tables"][0]["rows"]] == [
        ["1 + 1", "from scratch", "0"],
        ["1 + 1", "from the classifier", "0"],
    ]
    whole = compare(data, classifier, monkeypatch, "--seeds", "0", "--shares", "0.5", "1")
    assert starts == [None, str(classifier)] * 2, "what is known is not run again"
    assert whole["runs"][:2] == first["runs"]
    assert compare(data, classifier, monkeypatch, "--seeds", "0", "--shares", "0.5")["tables"] == whole["tables"]
    assert [row[0] for row in whole["tables"][0]["rows"]] == ["1 + 1", "1 + 1", "2 + 2", "2 + 2"]


def test_a_share_of_the_steps_is_one_of_both_trainings(data: Path) -> None:
    changes = ["rpn.training.steps=800", "rpn.training.milestones=[600, 700]", "fast_rcnn.training.steps=900"]
    config = load_config(data.parent / "tiny.yaml", [*changes, "fast_rcnn.training.warmup_steps=0"])
    shorter = pretraining.shortened(config, 0.25)
    assert (shorter.rpn.training.steps, shorter.fast_rcnn.training.steps) == (200, 225)
    assert shorter.rpn.training.milestones == (150, 175)
    assert shorter.fast_rcnn.training.warmup_steps == 0
    assert pretraining.shortened(config, 0.001).rpn.training.milestones == (1,)
    assert pretraining.shortened(config, 1.0) == config
