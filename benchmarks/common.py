"""What the benchmarks share: what they ran on, functions timed in turns, tables, result files.

A result file is JSON: `title`, `environment`, `tables` (each a title, columns and rows, as they are printed and as
`python -m benchmarks.table` puts them into the README), and whatever else the benchmark measured.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.common.files import write_text
from detection.training.precision import processor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OURS, PEER = "ours", "torchvision"  # who was measured, in tables and result files
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Timing:
    """Seconds that one function took, a number each round, and in the run before them, which may compile or cache."""

    rounds: tuple[float, ...]
    first: float | None = None

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.rounds)

    def ratio_to(self, other: Timing) -> float:
        """How many times as long as `other`: the middle of the rounds' own ratios.

        What slows the machine down for a while slows both functions of a round and leaves their ratio alone.
        """
        return statistics.median(own / theirs for own, theirs in zip(self.rounds, other.rounds, strict=True))

    def to_dict(self) -> dict[str, float]:
        """Median, fastest and slowest round, and the run before them where it was timed."""
        found = {"median": self.median, "min": min(self.rounds), "max": max(self.rounds)}
        return found if self.first is None else {**found, "first": self.first}


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    *,
    least_seconds: float = 0.0,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Times functions in turns: each runs once, which does not count, then once in every round, in alternating order.

    Args:
        repeats: rounds.
        least_seconds: short functions get more rounds, until the measurement has taken this long.
        device: where they compute; a GPU is waited for before either reading of the clock.
    """
    order = list(functions)
    first = {name: _seconds(functions[name], device) for name in order}
    rounds: dict[str, list[float]] = {name: [] for name in order}
    begin = time.perf_counter()
    while len(rounds[order[0]]) < repeats or (
        time.perf_counter() - begin < least_seconds and len(rounds[order[0]]) < _MOST_ROUNDS
    ):
        for name in order:
            rounds[name].append(_seconds(functions[name], device))
        order.reverse()
    return {name: Timing(tuple(own), first[name]) for name, own in rounds.items()}


def _seconds(function: Callable[[], object], device: torch.device | None) -> float:
    """What one call takes."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def matched_share(first: Sequence[Tensor], second: Sequence[Tensor], tolerances: Sequence[float]) -> float:
    """Share of the rows of either of two lists that have their like in the other; 1 says that both found the same.

    Args:
        first, second: the same columns of both, each (D,) or (D, c), as tensors of D rows.
        tolerances: by how much each column may differ.

    >>> matched_share([torch.tensor([1.0, 5.0])], [torch.tensor([1.001, 7.0, 8.0])], [0.01])
    0.3333333333333333
    """
    alike = torch.ones(len(first[0]), len(second[0]), dtype=torch.bool, device=first[0].device)
    for own, theirs, tolerance in zip(first, second, tolerances, strict=True):
        difference = (own[:, None].double() - theirs[None].double()).abs()
        alike &= (difference if difference.ndim == 2 else difference.amax(dim=2)) <= tolerance
    shares = [
        alike.any(dim=dim).double().mean().item() if size else 1.0
        for dim, size in ((1, len(first[0])), (0, len(second[0])))
    ]
    return min(shares)


def environment(benchmark: str, device: torch.device | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Hardware, versions, threads, commit and command line of this process.

    Args:
        benchmark: the module's name within `benchmarks`.
        device: what it computes on.
        packages: distributions whose versions matter besides torch's, torchvision's and numpy's.
    """
    on_gpu = device is not None and device.type == "cuda"
    return {
        "hardware": {
            "processor": processor(),
            "vector instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        },
        "threads": torch.get_num_threads(),
        "variables": {name: value for name, value in os.environ.items() if name.startswith(("OMP_", "GOMP_", "MKL_"))},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "numpy", *packages)},
        },
        "commit": _commit(),
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *sys.argv[1:]]),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit checked out, with "-dirty" where files differ from it; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A table as result files hold it."""
    return {"title": title, "columns": list(columns), "rows": [list(row) for row in rows]}


def markdown(content: Mapping[str, Any]) -> str:
    """A `table` as Markdown, its columns aligned so that it reads well on a terminal too."""
    rows = [content["columns"], *content["rows"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(content["columns"]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join([content["title"], "", *lines])


def seconds(value: float) -> str:
    """A duration to three digits: 1.23 s, 45.6 ms."""
    return f"{value:.3g} s" if value >= 0.9995 else f"{value * 1e3:.3g} ms"


def mean_and_range(values: Sequence[float], form: str) -> str:
    """Numbers of several runs: mean (lowest – highest)."""
    return f"{statistics.mean(values):{form}} ({min(values):{form}} – {max(values):{form}})"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result file whole or not at all."""
    write_text(path, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


def present(
    output: Path | None, title: str, about: Mapping[str, Any], tables: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Writes tables and `more` to a result file, if to any, and prints the tables."""
    if output is not None:
        write_result(output, {"title": title, "environment": about, "tables": list(tables), **more})
    print("", *map(markdown, tables), sep="\n\n", flush=True)
    if output is not None:
        print(f"\n{output}")


COMPARISON_COLUMNS = ("median (fastest – slowest)", OURS, PEER, "ratio")


def comparison_rows(measured: Mapping[str, Mapping[str, Timing]]) -> Iterator[list[str]]:
    """Rows (what, ours, torchvision's, ratio) of several comparisons; what is called neither `OURS` nor `PEER` is a
    variant of ours, and gets a row of its own."""
    for what, timings in measured.items():
        for who, timing in timings.items():
            if who != PEER:
                cells = [
                    f"{seconds(one.median)} ({seconds(min(one.rounds))} – {seconds(max(one.rounds))})"
                    for one in (timing, timings[PEER])
                ]
                yield [what if who == OURS else f"{what}, {who}", *cells, f"{timing.ratio_to(timings[PEER]):.2f}"]


def write_comparison(
    output: Path | None,
    title: str,
    about: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    measured: Mapping[str, Mapping[str, Timing]],
    more: Mapping[str, Any] | None = None,
) -> None:
    """`present` for tables, the first of `comparison_rows`, with the numbers of all."""
    numbers = {what: {who: one.to_dict() for who, one in own.items()} for what, own in measured.items()}
    present(output, title, about, tables, **(more or {}), seconds=numbers)
