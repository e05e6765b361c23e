"""Comparing two evaluated runs with val2017's numbers of images and objects: time and peak memory of compare_runs.

    python -m benchmarks.comparison

It writes the annotations and detections of `benchmarks.evaluation` into a temporary folder (5,000 images, 80 classes,
100 detections an image), and as the second run the same detections without every tenth. The comparison runs in a
process of its own; what it takes besides the bootstrap is mostly the reading of the two JSON files. Medians are printed
and written to benchmarks/results/comparison.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.evaluation import CLASS_COUNTS, DETECTIONS, IMAGES, write_data
from benchmarks.index_loading import peak_memory


def write_runs(folder: Path, images: int, categories: int) -> list[Path]:
    """Writes two evaluated runs on one test set, the same ones each time."""
    from detection.experiment.agreement import describe_image_set
    from detection.experiment.evaluation_folder import GROUND_TRUTH
    from detection.experiment.results_file import read_results, write_results

    annotations, results = write_data(folder, images, categories)
    rows = read_results(results)
    runs = []
    for name, own in (("a", rows), ("b", rows[[place % 10 != 9 for place in range(len(rows))]])):
        evaluation = folder / name / "evaluation"
        evaluation.mkdir(parents=True)
        write_results(evaluation / "results.json", own)
        shutil.copy(annotations, evaluation / GROUND_TRUTH)
        measured = describe_image_set(np.arange(1, images + 1))
        dataset = {"annotations": str(annotations), "fingerprint": "made", "images": measured}
        (evaluation / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
        runs.append(folder / name)
    return runs


def compare_and_report(runs: list[Path]) -> None:
    """Compares in this process and prints, as JSON, seconds, those within the bootstrap, memory, and the verdict."""
    from detection.experiment import comparison

    within = 0.0
    plain = comparison.bootstrap

    def timed(*arguments: Any) -> Any:
        nonlocal within
        begin = time.perf_counter()
        outcome = plain(*arguments)
        within += time.perf_counter() - begin
        return outcome

    before, begin = peak_memory(), time.perf_counter()
    with mock.patch.object(comparison, "bootstrap", timed):
        result = comparison.compare_runs(runs)
    report = {"together": time.perf_counter() - begin, "bootstrap": within, "growth_mb": peak_memory() - before}
    print(json.dumps({**report, "verdict": result.verdicts()[0]}))


def measured(runs: list[Path], root: Path) -> dict[str, Any]:
    """`compare_and_report` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.comparison", "--compare", *map(str, runs)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(report, flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1, help="comparisons of each kind (default: 1)")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"images (default: {IMAGES:,})")
    parser.add_argument(
        "--classes",
        type=int,
        nargs="+",
        default=CLASS_COUNTS,
        metavar="N",
        help="numbers of classes (default: 1 80 1203)",
    )
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/comparison.json)")
    parser.add_argument("--compare", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compare:
        compare_and_report(arguments.compare)
        return
    from benchmarks import common  # here, so that the process that compares does not hold what it imports

    reports: dict[int, list[dict[str, Any]]] = {}
    for count in arguments.classes:
        with tempfile.TemporaryDirectory() as folder:
            runs = write_runs(Path(folder), arguments.images, count)
            reports[count] = [measured(runs, common.ROOT) for _ in range(arguments.repeats)]
    rows = []
    for count, own in reports.items():
        middle = {key: statistics.median(one[key] for one in own) for key in ("together", "bootstrap", "growth_mb")}
        rows.append(
            [
                f"{count:,}",
                f"{middle['together']:.1f} s",
                f"{middle['bootstrap']:.1f} s",
                f"{middle['growth_mb']:.0f} MB",
            ]
        )
    content = common.table(
        f"Two runs of {arguments.images * DETECTIONS:,} detections each, 200 draws of the bootstrap",
        ["classes", "together", "in the bootstrap", "memory it adds at its peak"],
        rows,
    )
    print("\n" + common.markdown(content))
    common.write_result(
        arguments.output or common.RESULTS / "comparison.json",
        {
            "title": f"Comparing two runs on {arguments.images:,} images",
            "environment": common.environment("comparison"),
            "tables": [content],
            "runs": {str(count): own for count, own in reports.items()},
        },
    )


if __name__ == "__main__":
    main()
