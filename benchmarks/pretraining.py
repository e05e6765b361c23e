"""Does a classifier of small images help a detector? AP on BCCD started from its weights, beside AP from scratch.

    python tools/train_classifier.py --config configs/cifar/detector_backbone.yaml --data CIFAR
    python -m benchmarks.pretraining --data DIR --classifier runs/cifar10_detector_backbone/classifier.pt

Both sides train the same networks on the same images for the same steps, and so for the same time; the classifier's
own training, which is paid once for all detectors, is not counted. Schedules are shares of the configuration's: where
time is short, a good start should tell more. For each share and seed in turn: from scratch, then from the classifier.

Every run is added to the result file as it ends; what is there already, of the same settings, weights and machine, is
not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from backbones.common.files import sha256_of
from benchmarks.bccd import run_ours, settings_key
from benchmarks.common import RESULTS, ROOT, environment, markdown, mean_and_range, table, write_result
from benchmarks.recipe_list import shortened
from detection.command_line import run
from detection.config_file import load_config
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

        def key(share: float, start: str) -> str:
            return settings_key(shortened(config, share), about) + (sha256[:16] if weights[start] else "")

        for share, seed, start in itertools.product(options.shares, options.seeds, weights):
            what = {"key": key(share, start), "start": start, "share": share, "seed": seed}
            if any(what.items() <= one.items() for one in runs):
                continue
            backbone = dataclasses.replace(config.backbone, weights=weights[start])
            result = run_ours(dataclasses.replace(shortened(config, share), seed=seed, backbone=backbone), device)
            runs.append({**what, "commit": about["commit"], **result})
            print(f"{share:g} of the steps, seed {seed}, {start}: AP {result['AP']:.3f}", flush=True)
            _write(options.output, config.name, about, runs, key)
        print(f"\n{markdown(_write(options.output, config.name, about, runs, key))}\n\n{options.output}")
    return 0


def _write(
    path: Path,
    name: str,
    about: dict[str, Any],
    runs: Sequence[dict[str, Any]],
    key: Callable[[float, str], str],
) -> dict[str, Any]:
    """Writes all runs, and the table of those that belong together; returns the table."""
    content = _comparison([one for one in runs if one["key"] == key(one["share"], one["start"])])
    title = f"{name}: a detector started from a classifier's weights"
    write_result(path, {"title": title, "environment": about, "tables": [content], "runs": list(runs)})
    return content


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
    return table("For the same steps; mean (lowest – highest) over the seeds", columns, rows)


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
