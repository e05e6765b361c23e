"""Does a classifier of small pictures help a detector? AP on BCCD started from its weights, beside AP from scratch.

    python tools/train_classifier.py --config configs/cifar/detector_backbone.yaml --data CIFAR
    python -m benchmarks.pretraining --data DIR --classifier runs/cifar10_detector_backbone/classifier.pt

Both sides train the same networks on the same pictures for the same steps, and so for the same time; the classifier's
own training, which is paid once for all detectors, is not counted. Schedules are shares of the configuration's: where
time is short, a good start should tell more. For each share and seed in turn: from scratch, then from the classifier.

Every run is added to the result file as it ends; what is there already, of the same settings, weights and machine, is
not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bccd import run_ours, settings_key
from benchmarks.common import RESULTS, ROOT, environment, markdown, mean_and_range, table, write_result
from detection import config as settings
from detection.command_line import run
from detection.config_file import load_config
from detection.training.artifacts import sha256_of
from detection.training.distributed import process_group

SCRATCH, CLASSIFIER = "from scratch", "from the classifier"


def main() -> int:
    options = _arguments().parse_args()
    config = load_config(options.config, options.set)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=options.data))
    weights = {SCRATCH: None, CLASSIFIER: str(options.classifier)}
    with process_group(config.runtime.device) as device:
        about = environment("pretraining", device)
        sha256 = sha256_of(options.classifier)
        runs = json.loads(options.output.read_text(encoding="utf-8"))["runs"] if options.output.exists() else []
        shown = []
        for share in options.shares:
            shorter = shortened(config, share)
            for seed in options.seeds:
                for start, file in weights.items():
                    run_key = settings_key(shorter, about) + (sha256[:16] if file else "")
                    one = next((r for r in runs if (r["key"], r["seed"], r["start"]) == (run_key, seed, start)), None)
                    if one is None:
                        backbone = dataclasses.replace(shorter.backbone, weights=file)
                        result = run_ours(dataclasses.replace(shorter, seed=seed, backbone=backbone), device)
                        what = {"start": start, "share": share, "seed": seed, "commit": about["commit"]}
                        one = {"key": run_key, **what, **result}
                        runs.append(one)
                        print(f"{share:g} of the steps, seed {seed}, {start}: AP {one['AP']:.3f}", flush=True)
                    shown.append(one)
                    _write(options.output, about, runs, shown)
    print(f"\n{markdown(_comparison(shown))}\n\n{options.output}")
    return 0


def shortened(config: settings.Config, share: float) -> settings.Config:
    """The configuration with a share of the steps, in both trainings, the warm-up included."""

    def less(training: settings.Training) -> settings.Training:
        steps, warmup = (max(1, round(number * share)) for number in (training.steps, training.warmup_steps))
        milestones = tuple(round(milestone * share) for milestone in training.milestones)
        return dataclasses.replace(training, steps=steps, warmup_steps=warmup, milestones=milestones)

    rpn = dataclasses.replace(config.rpn, training=less(config.rpn.training))
    fast_rcnn = dataclasses.replace(config.fast_rcnn, training=less(config.fast_rcnn.training))
    return dataclasses.replace(config, rpn=rpn, fast_rcnn=fast_rcnn)


def _write(path: Path, about: dict[str, Any], runs: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> None:
    title = "Blood cells: a detector started from a classifier of CIFAR-10"
    write_result(path, {"title": title, "environment": about, "tables": [_comparison(shown)], "runs": list(runs)})


def _comparison(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row for each share of the steps and start."""
    rows = []
    for share, start in dict.fromkeys((one["share"], one["start"]) for one in runs):
        own = [one for one in runs if (one["share"], one["start"]) == (share, start)]
        rows.append(
            [
                " + ".join(f"{number:,}" for number in own[0]["steps"].values()),
                start,
                ", ".join(str(one["seed"]) for one in own),
                mean_and_range([one["AP"] for one in own], ".3f"),
                mean_and_range([one["AP50"] for one in own], ".3f"),
                mean_and_range([one["seconds"] for one in own], ".0f"),
            ]
        )
    columns = ["steps, RPN + Fast R-CNN", "start", "seeds", "AP", "AP@0.5", "training, s"]
    return table("BCCD for the same steps; mean (lowest – highest) over the seeds", columns, rows)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="root of the data set")
    parser.add_argument("--classifier", type=Path, required=True, metavar="FILE", help="what train_classifier.py wrote")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "bccd.yaml")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the configuration")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 1.0], help="of the configuration's steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS / "pretraining.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
