"""A configuration → the AP of the detector that it trains, and the pace of its trainings; for `benchmarks.recipes`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.bccd import evaluated
from benchmarks.recipe_list import shortened
from detection import config as settings
from detection.config_file import change_config, config_to_dict
from detection.experiment.agreement import config_subset_that_must_match
from detection.experiment.builders import pair
from detection.experiment.datasets import open_split
from detection.experiment.inference import prepare_inference
from detection.experiment.model_files import load_detector
from detection.experiment.proposing import propose
from detection.experiment.run_folder import RunFolder
from detection.experiment.stages import train_fast_rcnn, train_rpn
from detection.training.loop import Outcome

TRIAL_STEPS = 12  # of each network, to measure its pace


def measure(config: settings.Config, folder: Path, seed: int, device: torch.device) -> dict[str, Any]:
    """Trains both networks, or goes on with it, or takes them where they are trained; evaluates the detector.

    folder: of all runs of this data set and seed. Recipes that do not change a network's training share it.
    """
    config = dataclasses.replace(config, seed=seed)
    of_rpn = config_subset_that_must_match(config, "rpn")
    of_both = [
        of_rpn,
        config_subset_that_must_match(config, "fast_rcnn"),
        config_to_dict(config.rpn.training_proposals),
    ]
    first = dataclasses.replace(config, output=str(folder / f"rpn_{_hash(of_rpn)}"))
    second = dataclasses.replace(config, output=str(folder / f"detector_{_hash(of_both)}"))
    folders = RunFolder.of(first), RunFolder.of(second)
    if not folders[1].detector.exists():
        _finished(train_rpn(first, device, resume=True))
        proposals = propose(first, folders[0].rpn, "train", device)
        _finished(train_fast_rcnn(second, device, rpn_file=folders[0].rpn, proposals_file=proposals, resume=True))
    trained = load_detector(folders[1].detector)
    config = dataclasses.replace(config, fast_rcnn=_measured_statistics(config, trained.config))
    network = pair(config, trained.rpn.network, trained.fast_rcnn.network)
    return {
        **evaluated(prepare_inference(network, config, device), open_split(config.data, "test")),
        "seconds": sum(_logged(log)[-1]["elapsed"] for log in _logs(*folders)),
        "steps": {"rpn": config.rpn.training.steps, "fast_rcnn": config.fast_rcnn.training.steps},
    }


def pace(config: settings.Config, device: torch.device) -> tuple[float, float]:
    """Seconds a step of the RPN's and of the Fast R-CNN's training, from a few steps of each in a folder that is then
    deleted. The first of them is not counted."""
    share = [TRIAL_STEPS / part.training.steps for part in (config.rpn, config.fast_rcnn)]
    with tempfile.TemporaryDirectory() as temporary:
        config = change_config(
            shortened(config, *share),
            [
                f"{part}.training.{key}"
                for part in ("rpn", "fast_rcnn")
                for key in ("log_every=1", "evaluate_every=null")
            ],
        )
        config = dataclasses.replace(config, output=temporary)
        for train in (train_rpn, train_fast_rcnn):
            train(config, device)
        rpn, fast_rcnn = (_pace(log) for log in _logs(RunFolder.of(config), RunFolder.of(config)))
    return rpn, fast_rcnn


def _pace(log: Path) -> float:
    first, *_, last = _logged(log)
    return float(last["elapsed"] - first["elapsed"]) / (last["step"] - first["step"])


def _finished(outcome: Outcome) -> None:
    if not outcome.finished:
        raise SystemExit(outcome.exit_status)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _logs(of_rpn: RunFolder, of_fast_rcnn: RunFolder) -> list[Path]:
    return [part / "log.jsonl" for part in (of_rpn.rpn_training, of_fast_rcnn.fast_rcnn_training)]


def _logged(log: Path) -> list[dict[str, Any]]:
    """The lines of a training's log that have its figures."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "elapsed" in line]


def _measured_statistics(config: settings.Config, trained: settings.Config) -> settings.FastRCNN:
    own, theirs = config.fast_rcnn, trained.fast_rcnn
    return dataclasses.replace(
        own, box_means=theirs.box_means, box_stds=theirs.box_stds, box_statistics=theirs.box_statistics
    )
