"""(e) Trainings on data with a preset's own steps, and their AP beside that of the same trainings on a CPU."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.bccd import evaluated
from benchmarks.common import OURS, RESULTS, ROOT
from benchmarks.gpu.results import Work
from detection.config_file import load_config
from detection.experiment.builders import pair
from detection.experiment.datasets import open_split
from detection.experiment.inference import prepare_inference
from detection.experiment.model_files import load_detector
from detection.experiment.run_folder import RunFolder
from detection.experiment.stages import train_fast_rcnn, train_rpn

DEMO_ON_CPU = {"AP": (0.614, 0.609, 0.621), "AP50": (0.911, 0.904, 0.915)}  # benchmarks/README.md, "The same AP"
_WORKERS = min(8, os.cpu_count() or 1)


def train(work: Work, *, config: str, data: str | None, precision: str, seed: int) -> dict[str, Any]:
    """Trains both networks, going on where an earlier call was interrupted, and evaluates the pair on the test split.

    Returns the figures, the seconds of each stage (None where it went on from an earlier call), and the CPU's figures.
    An interruption ends the process after a checkpoint.
    """
    changes = [
        f"seed={seed}",
        f"output={json.dumps(str(work.folder))}",
        f"runtime.device={work.device.type}",
        f"runtime.precision={precision}",
        f"runtime.workers={0 if work.quick else _WORKERS}",
        "runtime.tensorboard=false",
        *([f"data.root={json.dumps(data)}"] if data else []),
    ]
    if data is None:
        changes.append(f"data.root={json.dumps(str(work.folder.parent / 'demo_data'))}")
    if work.quick:
        changes += ["rpn.training.steps=2", "fast_rcnn.training.steps=2", "data.shorter_sides=[64]"]
        changes += ["rpn.training.warmup_steps=0", "fast_rcnn.training.warmup_steps=0", "data.test_shorter_side=64"]
        changes += ["rpn.training_proposals.before_nms=50", "rpn.training_proposals.after_nms=20"]
        changes += ["rpn.test_proposals.before_nms=50", "rpn.test_proposals.after_nms=10"]
    settings = load_config(ROOT / "configs" / f"{config}.yaml", changes)
    folder = RunFolder.of(settings)
    seconds: dict[str, float | None] = {}
    for name, file, stage in (("rpn", folder.rpn, train_rpn), ("fast_rcnn", folder.fast_rcnn, train_fast_rcnn)):
        if file.exists():
            seconds[name] = None
            continue
        begin = time.perf_counter()
        outcome = stage(settings, work.device, resume=True)  # type: ignore[operator]
        if not outcome.finished:
            sys.exit(outcome.exit_status)
        seconds[name] = None if outcome.first_step else time.perf_counter() - begin
    trained = load_detector(folder.detector)
    network = pair(settings, trained.rpn.network, trained.fast_rcnn.network)
    inference = prepare_inference(network, settings, work.device)
    found = evaluated(inference, open_split(settings.data, "test"))
    return {**found, "stage_seconds": seconds, "cpu": on_cpu(config)}


def on_cpu(config: str) -> dict[str, Any]:
    """AP and AP@0.5 of the same configuration on a CPU: mean, lowest and highest over the seeds."""
    if config == "demo":
        return dict(DEMO_ON_CPU)
    path = RESULTS / f"{config}.json"
    if not path.exists():
        return {}
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    runs = [one for one in content["runs"] if one["who"] == OURS and one["key"] == content["keys"][OURS]]
    return {
        name: (sum(values) / len(values), min(values), max(values))
        for name in ("AP", "AP50")
        if (values := [one[name] for one in runs])
    }
