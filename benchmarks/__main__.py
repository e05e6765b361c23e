"""All benchmarks of the CPU, one after the other, and then the table in benchmarks/README.md.

    python -m benchmarks                         under 15 minutes on two cores
    python -m benchmarks --list                  what there is
    python -m benchmarks --only growth imports   these alone, and the table

Each runs in a process of its own, with fewer repeats than by itself, and replaces its result file. One that fails or
exceeds its budget of time is reported at the end, and the exit status is then 1; its earlier result stays.
`benchmarks.bccd`, `.pretraining`, `.classification` and `.recipes`, which train for long, are not among them, nor is
`.pointwise_convolution`, whose result changes with PyTorch alone: their results are those of the commands which the
table names.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from backbones.common.errors import UserError
from detection.command_line import REPOSITORY, run


class Benchmark(NamedTuple):
    """module: within `benchmarks`; arguments: its own; budget: seconds until it is given up; about: in a line."""

    name: str
    module: str
    arguments: Sequence[str]
    budget: float
    about: str


BENCHMARKS = (
    Benchmark("imports", "imports", ["--repeats", "2"], 120, "start-up of the package and of each tool"),
    Benchmark("training_loop", "training_loop", ["--repeats", "3"], 60, "the host's own time of a step"),
    Benchmark("data_pipeline", "data_pipeline", ["--repeats", "2"], 120, "decode, resize, flip, batch"),
    Benchmark("index_loading", "index_loading", ["--repeats", "1"], 150, "an annotation file of COCO's size"),
    Benchmark("evaluation", "evaluation", ["--repeats", "1", "--images", "2000"], 150, "COCO's figures"),
    Benchmark("comparison", "comparison", ["--classes", "80"], 90, "comparing two runs, with intervals"),
    Benchmark("roi_align", "roi_align", ["--repeats", "1"], 120, "RoIAlign, forward and backward"),
    Benchmark("grouped", "grouped_convolution", ["--repeats", "1"], 120, "ResNeXt's 3×3, by implementation"),
    Benchmark("backbones", "backbones", ["--repeats", "1"], 300, "ResNeXt beside torchvision's and timm's"),
    Benchmark("modern", "detector", ["--preset", "modern", "--repeats", "1"], 240, "both networks, modern settings"),
    Benchmark("paper", "detector", ["--preset", "paper", "--repeats", "1"], 240, "both networks, the paper's settings"),
    Benchmark("growth", "growth", ["--repeats", "1"], 300, "time and memory against sizes"),
)


def main() -> int:
    options = _arguments().parse_args()
    if options.list:
        for one in BENCHMARKS:
            print(f"{one.name:14} {_command(one)}\n{'':14} {one.about}; at most {one.budget:.0f} s")
        return 0
    names = options.only or [one.name for one in BENCHMARKS]
    failures = []
    begin = time.monotonic()
    for number, one in enumerate(one for one in BENCHMARKS if one.name in names):
        print(f"[{number + 1}/{len(names)}] {_command(one)}", flush=True)
        start = time.monotonic()
        failure = failure_of(_arguments_of(one), one.budget * options.patience)
        if failure is not None:
            failures.append(f"{one.name}: {failure}")
        print(f"{one.name}: {failure or 'done'}, {time.monotonic() - start:.0f} s\n", flush=True)
    table = failure_of(["-m", "benchmarks.table"], 60)
    if table is not None:
        failures.append(f"table: {table}")
    print(f"{time.monotonic() - begin:.0f} s in all", flush=True)
    if failures:
        raise UserError("not all benchmarks ended well; the others' results are in the table\n" + "\n".join(failures))
    return 0


def failure_of(arguments: Sequence[str], budget: float) -> str | None:
    """Runs Python with these arguments; what went wrong in words, None if nothing did."""
    try:
        status = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, timeout=budget).returncode
    except subprocess.TimeoutExpired:
        return f"given up after {budget:.0f} s (--patience 2 doubles all budgets)"
    return f"exit status {status}" if status else None


def _arguments_of(one: Benchmark) -> list[str]:
    return ["-m", f"benchmarks.{one.module}", *one.arguments]


def _command(one: Benchmark) -> str:
    return shlex.join(["python", *_arguments_of(one)])


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [one.name for one in BENCHMARKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="print what there is, and stop")
    parser.add_argument("--patience", type=float, default=1.0, help="times the budgets of time, on a slower machine")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
