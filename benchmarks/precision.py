"""AP of trained detectors in fp32 and in bf16, on the images and labels of their own test splits.

    python -m benchmarks.precision --weights runs/demo/detector.pt runs/bccd/detector.pt
    python -m benchmarks.precision --weights runs/demo/detector.pt --set data.root=/elsewhere/demo

Both precisions run in one process on the same images, in fp32 and with weights in bf16 whatever `runtime.precision:
auto` would choose. As a scale for the difference, the fp32 detector is evaluated with noise of 0.1 % in its weights,
too: that much alone changes an AP on few images.

The times are those of the whole split, images read and decoded before. What auto chooses for such a detector on this
machine is in the last column.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, environment, markdown, seconds, table, write_result
from detection.command_line import run
from detection.data.index import DatasetIndex
from detection.evaluation.average_precision import average_precision
from detection.experiment.builders import pair
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import open_split
from detection.experiment.ground_truth_loading import ground_truth_of
from detection.experiment.inference import (
    Inference,
    as_rows,
    batches_of_split,
    detect_batch,
    gather_rows,
    prepare_inference,
)
from detection.experiment.model_files import load_detector
from detection.experiment.stored_configuration import change_stored_config
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.low_precision import convert

NOISE = 1e-3
SEEDS = 3
_CPU = torch.device("cpu")
_COLUMNS = (
    *("detector", "test images", "AP fp32", "AP bf16", "difference", "AP50 difference", "AP with noisy weights"),
    *("an image, fp32", "bf16", "auto"),
)


def main() -> int:
    options = _arguments().parse_args()
    rows, numbers = [], {}
    for path in options.weights:
        row, own = compare(path, ["runtime.workers=0", *options.set])
        rows.append(row)
        numbers[row[0]] = own
        print(*row, sep="  ", flush=True)
    found = table("AP in bf16 beside fp32, weights in bf16 on the CPU", _COLUMNS, rows)
    print("", markdown(found), sep="\n\n")
    result = {"title": "AP in bf16", "environment": environment("precision"), "tables": [found], "detectors": numbers}
    write_result(options.output, result)
    return 0


def compare(path: Path, changes: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The row of one detector, and its numbers."""
    trained = load_detector(path)
    config = change_stored_config(trained.config, path, changes)
    categories = trained.categories
    index = match_classes(open_split(config.data, "test"), categories.ids, categories.names, "the detector")
    exact = prepare_inference(pair(config, trained.rpn.network, trained.fast_rcnn.network), config, _CPU)
    chosen = prepare_inference(exact.network, config, _CPU, choose=True).precision
    coarse = dataclasses.replace(exact, network=copy.deepcopy(exact.network))
    convert(coarse.network, torch.bfloat16)
    ap, took = {}, {}
    for name, one in (("fp32", exact), ("bf16", coarse)):
        ap[name], took[name] = _figures(one, index)
    noisy = [_figures(_with_noise(exact, seed), index)[0]["AP"] for seed in range(SEEDS)]
    differences = [ap["bf16"][key] - ap["fp32"][key] for key in ("AP", "AP50")]
    row = [
        *(config.name, str(len(index)), f"{ap['fp32']['AP']:.4f}", f"{ap['bf16']['AP']:.4f}"),
        *(f"{difference:+.4f}" for difference in differences),
        ", ".join(f"{one:.4f}" for one in noisy),
        *(seconds(took[name]) for name in ("fp32", "bf16")),
        chosen.name,
    ]
    return row, {"figures": ap, "noisy_ap": noisy, "seconds": took, "auto": str(chosen)}


def _figures(inference: Inference[FasterRCNN], index: DatasetIndex) -> tuple[dict[str, Any], float]:
    """The COCO figures, and the median seconds of an image."""
    rows, took = [], []
    for batch in batches_of_split(inference, index, "detecting"):
        begin = time.perf_counter()
        found = detect_batch(inference, batch)
        took.append((time.perf_counter() - begin) / len(batch))
        rows += [as_rows(one, image, index) for image, one in zip(batch.image_ids.tolist(), found, strict=True)]
    return average_precision(ground_truth_of(index), gather_rows(rows)).figures, statistics.median(took)


def _with_noise(inference: Inference[FasterRCNN], seed: int) -> Inference[FasterRCNN]:
    network, generator = copy.deepcopy(inference.network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + NOISE * torch.randn(parameter.shape, generator=generator))
    return dataclasses.replace(inference, network=network)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, metavar="FILE", help="detector.pt")
    parser.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="changes to the configuration")
    parser.add_argument("--output", type=Path, default=RESULTS / "precision.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
