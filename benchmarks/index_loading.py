"""Loading an annotation file of COCO's size: `load_index` beside `pycocotools.coco.COCO`, time and peak memory.

    python -m benchmarks.index_loading

It first writes a synthetic file with train2017's numbers (118,287 images, 860,001 objects with outlines, 430 MB) into
a temporary folder. Each loading runs in a process of its own, so that its peak memory is its own, and the two take
turns; medians are printed and written to benchmarks/results/index_loading.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.annotation_files import write_annotations

SECONDS, MEGABYTES = ("seconds", "processor_seconds"), ("growth_mb", "peak_mb")
IMAGES, OBJECTS = 118_287, 860_001


def load_and_report(loader: str, path: Path) -> None:
    """Loads the file in this process and prints, as JSON, seconds and the process's memory at its peak and before."""
    if loader == "load_index":
        from detection.data.index import load_index

        def load() -> Any:
            return load_index(path, path.parent, name="benchmark")
    else:
        from pycocotools.coco import COCO

        def load() -> Any:
            return COCO(str(path))

    before = peak_memory()
    begin, processor_begin = time.perf_counter(), time.process_time()
    loaded = load()
    seconds, processor_seconds = time.perf_counter() - begin, time.process_time() - processor_begin
    peak = peak_memory()
    count = len(loaded.annotation_ids) if loader == "load_index" else len(loaded.anns)
    report = {"seconds": seconds, "processor_seconds": processor_seconds}
    report |= {"growth_mb": peak - before, "peak_mb": peak, "objects": count}
    print(json.dumps(report))


def peak_memory() -> float:
    """MB that this process has held at most; not getrusage's figure, which counts the process that started it too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="loadings of each kind (default: 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of COCO's numbers (default: 1)")
    parser.add_argument("--output", type=Path, help="result file (default: benchmarks/results/index_loading.json)")
    parser.add_argument("--load", nargs=2, metavar=("LOADER", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        load_and_report(arguments.load[0], Path(arguments.load[1]))
        return
    from benchmarks import common  # here, so that the processes that load do not hold what it imports

    runs: dict[str, list[dict[str, float]]] = {"load_index": [], "pycocotools": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        write_annotations(path, int(IMAGES * arguments.scale), int(OBJECTS * arguments.scale))
        megabytes = path.stat().st_size / 1e6
        for _ in range(arguments.repeats):
            for loader, own in runs.items():
                command = [sys.executable, "-m", "benchmarks.index_loading", "--load", loader, str(path)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=common.ROOT).stdout
                own.append(json.loads(output.splitlines()[-1]))
                print(f"{loader:12} {own[-1]['seconds']:6.2f} s, {own[-1]['growth_mb']:6.0f} MB", flush=True)
    medians = {
        loader: {key: statistics.median(run[key] for run in own) for key in own[0]} for loader, own in runs.items()
    }
    ratios = {key: medians["load_index"][key] / medians["pycocotools"][key] for key in medians["load_index"]}
    rows = [
        [loader, *(f"{own[key]:.1f} s" for key in SECONDS), *(f"{own[key]:.0f} MB" for key in MEGABYTES)]
        for loader, own in medians.items()
    ]
    rows.append(["ratio", *(f"{ratios[key]:.2f}" for key in (*SECONDS, *MEGABYTES))])
    title = f"Loading {medians['load_index']['objects']:,.0f} annotations with outlines ({megabytes:.0f} MB of JSON)"
    columns = ["", "time", "processor time", "memory it adds at its peak", "memory of the process at its peak"]
    table = common.table(title, columns, rows)
    result = {
        "title": title,
        "environment": common.environment("index_loading"),
        "tables": [table],
        "runs": runs,
        "pycocotools": version("pycocotools"),
    }
    print(common.markdown(table))
    common.write_result(arguments.output or common.RESULTS / "index_loading.json", result)


if __name__ == "__main__":
    main()
