"""Everything that several ranks do together begins with a look at whether they are about to do the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.classification.views import Views
from detection.classifier.config import ClassifierConfig
from detection.classifier.stage import plan_classifier, train_classifier
from detection.classifier.top_errors import measure
from detection.config_file import change_config, load_config
from detection.experiment import dry_run, evaluate, proposing, stages
from tests.detection.pipeline import MINIATURE
from tests.detection.ranks import by_ranks

NOWHERE = Path("/nowhere")
# What each does is refused before it opens any of its arguments.
WORK: dict[str, Callable[[Any, torch.device], object]] = {
    "train the RPN": lambda config, device: stages.train_rpn(config, device),
    "train the Fast R-CNN": lambda config, device: stages.train_fast_rcnn(config, device),
    "plan the RPN": lambda config, device: dry_run.of_rpn(config, device),
    "plan the Fast R-CNN": lambda config, device: dry_run.of_fast_rcnn(config, device),
    "propose": lambda config, device: proposing.propose(config, NOWHERE, "train", device),
    "measure a detector": lambda config, device: evaluate.evaluate_detector(config, None, device, NOWHERE),  # type: ignore[arg-type]
    "measure an RPN": lambda config, device: evaluate.evaluate_rpn(config, None, device, NOWHERE),  # type: ignore[arg-type]
    "measure proposals": lambda config, _: evaluate.evaluate_store(config, None, None, NOWHERE),  # type: ignore[arg-type]
    "train a classifier": lambda config, device: train_classifier(config, device),
    "plan a classifier": lambda config, device: plan_classifier(config, device),
    "measure a classifier": lambda config, device: measure(None, config, Views(32, (36,)), device, NOWHERE),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("what", WORK)
def test_ranks_of_other_configurations_are_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "miniature.yaml").write_text(MINIATURE)
    detector = load_config(tmp_path / "miniature.yaml", [f"output={tmp_path / 'run'}"])
    classifier = change_config(ClassifierConfig(), [f"output={tmp_path / 'run'}"])
    config = classifier if "classifier" in what else detector

    def work(rank: int, device: torch.device) -> None:
        WORK[what](change_config(config, [f"seed={rank}"]), device)

    first, second = by_ranks(2, work)
    assert first == second
    assert "rank 1 and rank 0 disagree on what to do: seed is 0 on rank 0 and 1 on rank 1" in str(first)
    assert not (tmp_path / "run").exists()
