"""COCO's figures for val2017's numbers of images and objects: ours beside pycocotools and two fast evaluators.

    python -m benchmarks.evaluation

It first writes annotations (5,000 images, 36,781 objects, one in a hundred a crowd region) and detections (100 an
image: displaced objects and noise) of 1, 80 and 1,203 classes into a temporary folder. Each evaluation runs in a
process of its own, so that its peak memory is its own, and they take turns:

- from the two files to the figures;
- from an array of detections to the figures: the ground truth has been read by whoever evaluates, as it is when a
  network is evaluated while it is trained.

pycocotools computes on one core and evaluates the 80 classes alone; the others compute on all cores.
The benchmark stops if a figure or a class's AP of two of them differs by more than 1e-9. An evaluator that is not
installed is left out, with a message. Medians are printed and written to benchmarks/results/evaluation.json.
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
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.index_loading import peak_memory

OURS, PEER = "ours", "pycocotools"
FAST = {"hotcoco": "hotcoco", "ultrafast-pycocotools": "ultrafast_pycocotools"}  # distribution: module
FILES, ARRAYS = "files", "arrays"
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


def evaluate_and_report(who: str, kind: str, annotations: Path, results: Path) -> None:
    """Evaluates in this process and prints, as JSON, seconds, memory, figures, and AP and AP@0.5 of each class."""
    read_truth, read_results, evaluate = ours() if who == OURS else like_pycocotools(FAST.get(who, who))
    with contextlib.redirect_stdout(io.StringIO()):
        found: Any = str(results)
        if kind == ARRAYS:
            from detection.experiment.results_file import read_results as read_array

            truth, found = read_truth(annotations), read_array(results)
        before, begin = peak_memory(), time.perf_counter()
        if kind == FILES:
            truth = read_truth(annotations)
        detections = read_results(truth, found)
        middle = time.perf_counter()
        figures, classes = evaluate(truth, detections)
    end, peak = time.perf_counter(), peak_memory()
    report: dict[str, Any] = {"reading": middle - begin, "evaluating": end - middle, "together": end - begin}
    report |= {"growth_mb": peak - before, "peak_mb": peak, "figures": figures, "classes": classes}
    print(json.dumps(report))


def ours() -> tuple[Any, Any, Any]:
    """How this project reads an annotation file, takes detections (a file or an array), and evaluates both."""
    from detection.evaluation.average_precision import average_precision
    from detection.experiment.ground_truth_loading import load_ground_truth
    from detection.experiment.results_file import read_results

    def evaluate(truth: Any, detections: Any) -> tuple[list[float], list[list[float | None]]]:
        outcome = average_precision(truth, detections)
        classes = [[row.average_precision, row.average_precision_50] for row in outcome.classes]
        return [-1.0 if value is None else value for value in outcome.figures.values()], classes

    return load_ground_truth, lambda _, found: found if isinstance(found, np.ndarray) else read_results(found), evaluate


def like_pycocotools(module: str) -> tuple[Any, Any, Any]:
    """The same of pycocotools and of those that have its interface, as its own demo goes about it."""
    if module == PEER:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        COCO, COCOeval = (getattr(import_module(module), name) for name in ("COCO", "COCOeval"))

    def evaluate(truth: Any, detections: Any) -> tuple[list[float], list[list[float | None]]]:
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]  # thresholds, recall levels, classes
        tables = (precision, precision[:1])
        classes = [[mean_of_present(table[:, :, k]) for table in tables] for k in range(precision.shape[2])]
        return [float(value) for value in evaluation.stats], classes

    return lambda path: COCO(str(path)), lambda truth, found: truth.loadRes(found), evaluate


def is_installed(distribution: str) -> bool:
    return find_spec(FAST[distribution]) is not None


def mean_of_present(values: np.ndarray) -> float | None:
    """The mean over what is not −1, None if all is."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def run(who: str, kind: str, files: tuple[Path, Path], root: Path) -> dict[str, Any]:
    """`evaluate_and_report` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--evaluate", who, kind, *map(str, files)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(f"  {who:22} {kind:7} {report['together']:7.2f} s, {report['growth_mb']:6.0f} MB", flush=True)
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


def measured(files: tuple[Path, Path], count: int, repeats: int, root: Path) -> dict[str, dict[str, list[Any]]]:
    """The runs of everyone on files of `count` classes, by kind and by who."""
    print(f"{count:,} classes", flush=True)
    runs: dict[str, dict[str, list[Any]]] = {}
    for kind in (FILES, ARRAYS):
        who = [OURS, *filter(is_installed, FAST)]
        if kind == FILES and count == CATEGORIES:
            who.append(PEER)
        runs[kind] = {one: [] for one in who}
        for _ in range(repeats):
            for one, own in runs[kind].items():
                own.append(run(one, kind, files, root))
    return runs


def rows(runs: Mapping[int, Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]], kind: str) -> list[list[str]]:
    """Of one kind: classes, who, times and memory, and the time of ours by theirs."""
    found = []
    for count, kinds in runs.items():
        middle = {who: medians(own) for who, own in kinds[kind].items()}
        for who, own in middle.items():
            ratio = middle[OURS]["together"] / own["together"]
            times = [f"{own[key]:.2f} s" for key in TIMES]
            memory = [f"{own[key]:.0f} MB" for key in MEMORY]
            found.append([f"{count:,}", who, *times, *memory, "" if who == OURS else f"{ratio:.2f}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="evaluations of each kind (default: 3)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images (default: {IMAGES:,})")
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/evaluation.json)")
    parser.add_argument("--evaluate", nargs=4, metavar=("WHO", "KIND", "TRUTH", "RESULTS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.evaluate:
        who, kind, *paths = arguments.evaluate
        evaluate_and_report(who, kind, *map(Path, paths))
        return
    from benchmarks import common  # here, so that the processes that evaluate do not hold what it imports

    for distribution in FAST:
        if not is_installed(distribution):
            print(f"{distribution} is left out: it is not installed (pip install {distribution})")
    runs = {}
    for count in CLASS_COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            files = write_data(Path(folder), arguments.images, count)
            runs[count] = measured(files, count, arguments.repeats, common.ROOT)
    difference = max(
        largest_difference(own[0], kinds[FILES][OURS][0])
        for kinds in runs.values()
        for everyone in kinds.values()
        for own in everyone.values()
    )
    if not difference <= TOLERANCE:
        raise SystemExit(f"the figures differ by up to {difference:g}: times of different results say nothing")

    columns = ["classes", "", *TIMES, "memory it adds at its peak", "memory of the process at its peak"]
    said = f"largest difference of any figure or class's AP: {difference:.1g}"
    tables = [
        common.table(f"From {what} to the figures; {said}", [*columns, "our time by theirs"], rows(runs, kind))
        for kind, what in ((FILES, "two files"), (ARRAYS, "an array of detections"))
    ]
    result = {
        "title": f"Evaluating {arguments.images * DETECTIONS:,} detections in {arguments.images:,} images",
        "environment": common.environment("evaluation", packages=[PEER, *filter(is_installed, FAST)]),
        "tables": tables,
        "difference": difference,
        "runs": {
            f"{count} classes": {
                kind: {who: [{key: one[key] for key in (*TIMES, *MEMORY)} for one in own] for who, own in of.items()}
                for kind, of in kinds.items()
            }
            for count, kinds in runs.items()
        },
    }
    print("\n\n".join(["", *map(common.markdown, tables)]))
    common.write_result(arguments.output or common.RESULTS / "evaluation.json", result)


if __name__ == "__main__":
    main()
