"""How time and memory grow with what a user may make larger: a table, a plot and a fitted exponent for each quantity.

    python -m benchmarks.growth
    python -m benchmarks.growth --only regions classes
    python -m benchmarks.growth --quick               to see that it runs

The quantities and the works that depend on them are those of `growth_works.py` and `growth_data.py`, and the loader's
workers. The exponent
is the slope of a straight line through the upper half of the points in a plot with logarithmic axes: 1 is linear, 0
says that the quantity does not matter. The sizes take turns, so that a slow spell of the machine hits all of them. Peak
memory is that of a process of its own, above what it held before; small blocks are given back to the system at once
there, so that nothing of an earlier size hides a later one.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import loader_runs
from benchmarks.common import RESULTS, ROOT, environment, interleaved, markdown, seconds, table, write_result
from benchmarks.growth_works import SUBJECTS, Subject
from benchmarks.index_loading import peak_memory
from benchmarks.photographs import photographs
from detection.command_line import run
from detection.report.charts import Panel, write_chart
from detection.training.distributed import process_group

PLOTS = ROOT / "benchmarks" / "plots"
WORKERS = (0, 1, 2, 4, 8)
LINEAR = 1.15  # an exponent above this is worse than linear; below it, that may be the measurement's noise
_NOISE_MB = 2.0  # what grows to less than this has no exponent worth the name


class Curve(NamedTuple):
    """One work: its seconds and its MB at each size; no MB where there is nothing to measure."""

    seconds: Sequence[float]
    megabytes: Sequence[float] | None


class Growth(NamedTuple):
    """What was measured of one quantity."""

    name: str
    quantity: str
    sizes: Sequence[int]
    curves: Mapping[str, Curve]


def main() -> int:
    options = _arguments().parse_args()
    subjects = {subject.name: subject for subject in SUBJECTS}
    if options.memory:
        name, folder = options.memory
        print(json.dumps(peaks_of_all(subjects[name], options.works, options.sizes, Path(folder))))
        return 0
    found = []
    for name in options.only or [*subjects, "workers"]:
        print(f"{name} …", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            if name == "workers":
                growth = loader_growth(Path(folder), options.repeats, options.quick)
            else:
                growth = growth_of(subjects[name], Path(folder), options.repeats, options.quick)
        found.append(growth)
        print(markdown(as_table(growth)) + "\n", flush=True)
    output = options.output or (None if options.quick or options.only else RESULTS / "growth.json")
    if output is not None:
        write(found, output, options.plots)
    steep = [f"{growth.name}: {text}" for growth in found for text in worse_than_linear(growth)]
    print("\n".join(steep) or "nothing grows worse than linearly")
    return 0


def growth_of(subject: Subject, folder: Path, repeats: int, quick: bool) -> Growth:
    """Times in turns in this process, then each work's memory in a process of its own."""
    sizes = subject.sizes[:3] if quick else subject.sizes
    works = {size: subject.works(size, folder) for size in sizes}
    functions = {f"{name} {size}": work for size, own in works.items() for name, work in own.items()}
    with process_group("cpu"):  # computes as the tools do
        timings = interleaved(functions, 1 if subject.slow or quick else repeats)
    names = list(works[sizes[0]])
    command = [sys.executable, "-m", "benchmarks.growth", "--memory", subject.name, str(folder)]
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    output = subprocess.run(
        [*command, "--works", *names, "--sizes", *map(str, sizes)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | own,
    ).stdout
    megabytes = json.loads(output.splitlines()[-1])
    curves = {name: Curve([timings[f"{name} {size}"].median for size in sizes], megabytes[name]) for name in names}
    return Growth(subject.name, subject.quantity, sizes, curves)


def peaks_of_all(subject: Subject, names: Sequence[str], sizes: Sequence[int], folder: Path) -> dict[str, list[float]]:
    """`peaks` of each work, in a process of its own that is forked from this one.

    This one must not have computed anything: the threads that torch computes with do not survive a fork.
    """
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        found = pool.starmap(peaks, [(subject, name, sizes, folder) for name in names], chunksize=1)
    return dict(zip(names, found, strict=True))


def peaks(subject: Subject, name: str, sizes: Sequence[int], folder: Path) -> list[float]:
    """MB by which a work of ascending sizes raises this process's peak, in all that has been called by then."""
    subject.works(sizes[0], folder)[name]()  # what is loaded on first use is no growth
    before = _resident_mb()
    found = []
    for size in sizes:
        subject.works(size, folder)[name]()
        found.append(round(max(0.0, peak_memory() - before), 1))
    return found


def loader_growth(folder: Path, repeats: int, quick: bool) -> Growth:
    """The loader on photographs, with 0 to 8 workers."""
    photographs(folder, 8 if quick else 64)
    numbers = WORKERS[:3] if quick else WORKERS
    runs = loader_runs.measured(folder, numbers, batches=4 if quick else 100, repeats=1 if quick else repeats)
    return Growth(
        "workers",
        "workers of the loader",
        numbers,
        {
            "until the first batch; memory of the workers": Curve(
                [runs[number].first_batch for number in numbers], [runs[number].worker_mb for number in numbers]
            ),
            "an image from then on": Curve([runs[number].per_image for number in numbers], None),
        },
    )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(value) over log(size), in the upper half of the sizes.

    >>> round(exponent([1, 10, 100, 1000], [5, 5, 7, 700]), 6)
    2.0
    """
    points = [(size, value) for size, value in zip(sizes, values, strict=True) if size > 0]
    points = points[min(len(points) // 2, len(points) - 2) :]
    slope, _ = statistics.linear_regression(*([math.log(one[side]) for one in points] for side in (0, 1)))
    return slope


def exponents(growth: Growth) -> dict[str, tuple[float, float | None]]:
    """Of time and of memory, by work; None where memory hardly grows."""
    found = {}
    for name, curve in growth.curves.items():
        memory = None
        if curve.megabytes is not None and curve.megabytes[-1] >= _NOISE_MB:
            memory = exponent(growth.sizes, [max(value, 0.1) for value in curve.megabytes])
        found[name] = (exponent(growth.sizes, curve.seconds), memory)
    return found


def worse_than_linear(growth: Growth) -> list[str]:
    """The works whose exponents say so, in words."""
    return [
        f"{name}: {what} grows with exponent {value:.2f}"
        for name, pair in exponents(growth).items()
        for what, value in zip(("time", "memory"), pair, strict=True)
        if value is not None and value > LINEAR
    ]


def as_table(growth: Growth) -> dict[str, Any]:
    """Sizes down, works across, and the exponents below."""
    rows = []
    for i, size in enumerate(growth.sizes):
        cells = [f"{size:,}"]
        for curve in growth.curves.values():
            megabytes = "" if curve.megabytes is None else f", {curve.megabytes[i]:.0f} MB"
            cells.append(seconds(curve.seconds[i]) + megabytes)
        rows.append(cells)
    last = ["exponent"]
    for time, memory in exponents(growth).values():
        last.append(f"{time:.2f}" + ("" if memory is None else f", {memory:.2f}"))
    return table(f"Growth with the {growth.quantity}", [growth.quantity, *growth.curves], [*rows, last])


def plot(growth: Growth, path: Path) -> None:
    """Time and memory as a chart."""
    panels = []
    for label, values in (("seconds", "seconds"), ("MB of memory", "megabytes")):
        curves = {
            name: list(zip(growth.sizes, getattr(curve, values), strict=True))
            for name, curve in growth.curves.items()
            if getattr(curve, values) is not None
        }
        panels.append(Panel(label, curves))
    title = f"Growth with the {growth.quantity}"
    write_chart(path, title, growth.quantity, panels, logarithmic=min(growth.sizes) > 0)


def write(found: Sequence[Growth], output: Path, plots: Path) -> None:
    """The result file, and a plot of each quantity beside it."""
    tables = []
    for growth in found:
        path = plots / f"growth_{growth.name}.svg"
        plot(growth, path)
        tables.append({**as_table(growth), "plot": path.name})
    about = environment("growth")
    measured = {
        growth.name: {
            "sizes": growth.sizes,
            "works": {name: curve._asdict() for name, curve in growth.curves.items()},
            "exponents": exponents(growth),
        }
        for growth in found
    }
    write_result(output, {"title": "Growth", "environment": about, "tables": tables, "growth": measured})
    print(output)


def _resident_mb() -> float:
    """MB that this process holds now."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024 / 1e6


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(subject.name for subject in SUBJECTS), "workers"]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}; no file")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3); the data set's size gets one")
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes, once; no file")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder of the plots (default: benchmarks/plots)")
    parser.add_argument("--output", type=Path, help="benchmarks/results/growth.json by default")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--works", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=int, nargs="+", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
