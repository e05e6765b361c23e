"""COCO's figures for val2017's numbers of images and objects: ours beside pycocotools, time and peak memory.

    python -m benchmarks.evaluation

It first writes annotations (5,000 images, 36,781 objects, 80 classes) and detections (100 an image: displaced
objects and noise) into a temporary folder. Each evaluation, from the two files to the figures, runs in a process of its
own, so that its peak memory is its own, and the two take turns. The benchmark stops if any figure or any class's AP
differs by more than 1e-9. Ours is measured with 1 and with 1,203 classes, too. Medians are printed and written to
benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_loading import peak_memory

OURS, PEER = "ours", "pycocotools"
IMAGES, OBJECTS, DETECTIONS, CATEGORIES = 5_000, 36_781, 100, 80  # the detections are those of one image
CLASS_COUNTS = (1, CATEGORIES, 1_203)
TOLERANCE = 1e-9
SIDES = (480, 640)
TIMES, MEMORY = ("reading", "evaluating", "together"), ("growth_mb", "peak_mb")


def write_data(folder: Path, images: int, categories: int) -> tuple[Path, Path]:
    """Writes annotations and results in COCO's formats, the same ones each time, and returns their paths."""
    from detection.experiment.results_file import write_results

    random = np.random.default_rng(0)
    count = OBJECTS * images // IMAGES
    frequencies = 1 / np.arange(3, categories + 3)  # some classes are far more frequent than others
    frequencies /= frequencies.sum()
    owners = np.sort(random.integers(0, images, count))
    labels = random.choice(categories, count, p=frequencies)
    boxes = random_boxes(random, count)
    areas = boxes[:, 2] * boxes[:, 3] * random.uniform(0.4, 1, count)
    crowds = random.random(count) < 0.01

    annotations = folder / "instances.json"
    columns = zip(owners.tolist(), labels.tolist(), boxes.tolist(), areas.tolist(), crowds.tolist(), strict=True)
    content = {
        "images": [{"id": i + 1, "height": SIDES[0], "width": SIDES[1]} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"thing {i + 1}"} for i in range(categories)],
        "annotations": [
            {"id": i, "image_id": owner + 1, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for i, (owner, label, box, area, crowd) in enumerate(columns, 1)
        ],
    }
    annotations.write_text(json.dumps(content))

    first = np.searchsorted(owners, np.arange(images + 1))
    image = np.repeat(np.arange(images), DETECTIONS)
    thing = first[image] + (random.random(len(image)) * np.diff(first)[image]).astype(np.int64)
    # half of them lie around an object of their image, where it has one; most of these carry its class
    near = (random.random(len(image)) < 0.5) & (np.diff(first)[image] > 0)
    thing = thing[near]
    found, scores = random_boxes(random, len(image)), random.uniform(0, 0.4, len(image))
    classes = random.choice(categories, len(image), p=frequencies)
    error = random.exponential(0.15, len(thing))
    found[near] = boxes[thing] + error[:, None] * random.normal(0, 1, (len(thing), 4)) * boxes[thing][:, [2, 3, 2, 3]]
    found[near, 2:] = np.maximum(found[near, 2:], 1)
    scores[near] = np.exp(-3 * error) * random.uniform(0.5, 1, len(thing))
    classes[near] = np.where(random.random(len(thing)) < 0.85, labels[thing], classes[near])
    results = folder / "results.json"
    write_results(results, np.column_stack([image + 1, found, scores.astype(np.float32), classes + 1]))
    return annotations, results


def random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """Boxes (count, 4) as x, y, width, height within an image, as many small as large ones."""
    sides = np.exp(random.uniform(np.log(8), np.log(400), (count, 2)))
    corners = random.random((count, 2)) * (np.array(SIDES[::-1]) - sides)
    return np.round(np.concatenate([corners, sides], axis=1), 2)


def evaluate_and_report(who: str, annotations: Path, results: Path) -> None:
    """Evaluates in this process and prints, as JSON, seconds, memory, figures, and AP and AP@0.5 of each class."""
    load, evaluate = ours() if who == OURS else pycocotools()
    before, begin = peak_memory(), time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = load(annotations, results)
        middle = time.perf_counter()
        figures, classes = evaluate(*loaded)
    end, peak = time.perf_counter(), peak_memory()
    report: dict[str, Any] = {"reading": middle - begin, "evaluating": end - middle, "together": end - begin}
    report |= {"growth_mb": peak - before, "peak_mb": peak, "figures": figures, "classes": classes}
    print(json.dumps(report))


def ours() -> tuple[Any, Any]:
    """How this project reads the two files, and how it evaluates what it has read."""
    from detection.evaluation.average_precision import average_precision
    from detection.experiment.ground_truth_loading import load_ground_truth
    from detection.experiment.results_file import read_results

    def load(annotations: Path, results: Path) -> tuple[Any, Any]:
        return load_ground_truth(annotations), read_results(results)

    def evaluate(truth: Any, detections: Any) -> tuple[list[float], list[list[float | None]]]:
        outcome = average_precision(truth, detections)
        classes = [[row.average_precision, row.average_precision_50] for row in outcome.classes]
        return [-1.0 if value is None else value for value in outcome.figures.values()], classes

    return load, evaluate


def pycocotools() -> tuple[Any, Any]:
    """The same of pycocotools, as its own demo goes about it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def load(annotations: Path, results: Path) -> tuple[Any, Any]:
        truth = COCO(str(annotations))
        return truth, truth.loadRes(str(results))

    def evaluate(truth: Any, detections: Any) -> tuple[list[float], list[list[float | None]]]:
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # thresholds, recall levels, classes
        tables = (precision, precision[:1])
        classes = [[mean_of_present(table[:, :, k]) for table in tables] for k in range(precision.shape[2])]
        return evaluation.stats.tolist(), classes

    return load, evaluate


def mean_of_present(values: np.ndarray) -> float | None:
    """The mean over what is not −1, None if all is."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def run(who: str, files: tuple[Path, Path], root: Path) -> dict[str, Any]:
    """`evaluate_and_report` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--evaluate", who, *map(str, files)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(f"{who:12} {report['together']:7.2f} s, {report['growth_mb']:6.0f} MB", flush=True)
    return report


def largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Between two reports' figures and classes; infinite where one has a class that the other lacks."""
    firsts, seconds = ([*report["figures"], *chain.from_iterable(report["classes"])] for report in (one, other))
    return max(
        (0.0 if first is second else float("inf")) if first is None or second is None else abs(first - second)
        for first, second in zip(firsts, seconds, strict=True)
    )


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in (*TIMES, *MEMORY)}


def cells(measured: Mapping[str, float]) -> list[str]:
    return [*(f"{measured[key]:.2f} s" for key in TIMES), *(f"{measured[key]:.0f} MB" for key in MEMORY)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="evaluations of each kind (default: 3)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images (default: {IMAGES:,})")
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/evaluation.json)")
    parser.add_argument("--evaluate", nargs=3, metavar=("WHO", "ANNOTATIONS", "RESULTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate:
        who, *paths = arguments.evaluate
        evaluate_and_report(who, *map(Path, paths))
        return
    from benchmarks import common  # here, so that the processes that evaluate do not hold what it imports

    runs: dict[str, list[dict[str, Any]]] = {OURS: [], PEER: []}
    growth: dict[int, list[dict[str, Any]]] = {}
    for count in CLASS_COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            files = write_data(Path(folder), arguments.images, count)
            if count != CATEGORIES:
                growth[count] = [run(OURS, files, common.ROOT) for _ in range(arguments.repeats)]
                continue
            for _ in range(arguments.repeats):
                for who, own in runs.items():
                    own.append(run(who, files, common.ROOT))
            growth[count] = runs[OURS]
    difference = max(largest_difference(one, other) for one, other in zip(runs[OURS], runs[PEER], strict=True))
    if not difference <= TOLERANCE:
        raise SystemExit(f"the figures differ by up to {difference:g}: times of different results say nothing")

    middle = {who: medians(own) for who, own in runs.items()}
    ratios = [f"{middle[OURS][key] / middle[PEER][key]:.3f}" for key in (*TIMES, *MEMORY)]
    title = f"Evaluating {arguments.images * DETECTIONS:,} detections in {arguments.images:,} images"
    columns = ["reading", "evaluating", "together", "memory it adds at its peak", "memory of the process at its peak"]
    comparison = common.table(
        f"From two files to the figures, {CATEGORIES} classes; largest difference of any figure or class's AP: "
        f"{difference:.1g}",
        ["", *columns],
        [[OURS, *cells(middle[OURS])], [PEER, *cells(middle[PEER])], ["ratio", *ratios]],
    )
    by_classes = common.table(
        "Ours, as many detections of more classes",
        ["classes", *columns],
        [[f"{count:,}", *cells(medians(own))] for count, own in growth.items()],
    )
    result = {
        "title": title,
        "environment": common.environment("evaluation"),
        "tables": [comparison, by_classes],
        "difference": difference,
        "runs": {
            who: [{key: one[key] for key in (*TIMES, *MEMORY, "figures")} for one in own] for who, own in runs.items()
        },
        "growth": {
            count: [{key: one[key] for key in (*TIMES, *MEMORY)} for one in own] for count, own in growth.items()
        },
        "pycocotools": version("pycocotools"),
    }
    print("\n\n".join(["", common.markdown(comparison), common.markdown(by_classes)]))
    common.write_result(arguments.output or common.RESULTS / "evaluation.json", result)


if __name__ == "__main__":
    main()
