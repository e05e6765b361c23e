"""All that a CUDA device must show, in the order of its worth; every result is written as it ends.

    python -m benchmarks.gpu                          nine minutes of it; the next call goes on where this one stopped
    python -m benchmarks.gpu --minutes 60 --data ../shared/data/bccd
    python -m benchmarks.gpu --wheels DIR             installs missing packages from a folder of wheels first
    python -m benchmarks.gpu --only b c               these parts alone
    python -m benchmarks.gpu --quick                  to see that it runs: small, on a CPU where there is no GPU

The results lie in a folder named by the device and PyTorch's version: one JSON file for each unit of work, and
README.md, one page with tables and plots. A unit that fails is recorded with its error and not tried again (--retry
tries it), and the others go on. Nothing is downloaded. Other work on the device changes the times: there must be none.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from backbones.common.errors import UserError
from benchmarks.gpu.units import PARTS, Unit, units
from benchmarks.gpu.wheels import install_missing

# What needs another package is imported in functions: it may be installed before they are called.

_ROOT = Path(__file__).resolve().parents[2]
_RESERVE = 5.0  # seconds at the end, for the page
_LEAST = 15.0  # seconds left in which nothing is begun any more


def start() -> int:
    """Installs what is missing, then runs `main`; returns the exit status."""
    options = _arguments().parse_args()
    begin = time.monotonic()
    try:
        install_missing(options.wheels)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from detection.command_line import run

    return run(lambda: main(options, begin))


def main(options: argparse.Namespace, begin: float) -> int:
    """Runs what is left until `options.minutes` after `begin` (`time.monotonic`)."""
    import torch

    from benchmarks.gpu.own_process import run_in_own_process
    from benchmarks.gpu.page import write_page
    from benchmarks.gpu.results import folder_of_device, read_units

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.quick:
        raise UserError("PyTorch finds no GPU here; --quick shows on the CPU that everything runs")
    if options.data is not None and not options.data.is_dir():
        raise UserError(
            f"--data {options.data}: there is no such folder; it must be BCCD's root, see configs/bccd.yaml"
        )
    output = options.output or _ROOT / ("runs/gpu_quick" if options.quick else "benchmarks/results/gpu")
    folder = folder_of_device(output.absolute(), device, quick=options.quick)
    wanted = [one for one in units(quick=options.quick, data=options.data) if one.part in options.only]
    known = read_units(folder)
    if options.retry:
        for name in [name for name, one in known.items() if one["outcome"] == "failed"]:
            (folder / f"{name}.json").unlink()
            del known[name]
    left = [one for one in wanted if one.name not in known]
    print(f"{folder}: {len(wanted) - len(left)} of {len(wanted)} units are done", flush=True)
    deadline = begin + 60 * options.minutes - _RESERVE
    work = functools.partial(run_in_own_process, device=device.type, quick=options.quick, folder=folder)
    unfinished = run_all(left, lambda unit: work(unit, deadline=deadline), lambda: write_page(folder), deadline)
    write_page(folder)
    failed = [name for name, one in read_units(folder).items() if one["outcome"] == "failed"]
    if failed:
        print(f"failed, with the error in the file of each (--retry tries again): {', '.join(failed)}")
    print(f"{len(unfinished)} units are left: call this again" if unfinished else "everything is done")
    print(folder / "README.md")
    return 0


def run_all(
    left: Sequence[Unit], work: Callable[[Unit], bool], after_each: Callable[[], object], deadline: float
) -> list[Unit]:
    """Runs the units in order until `deadline`, and returns those that were not done. One for which too little time is
    left is passed over for a shorter one."""
    unfinished = []
    for number, unit in enumerate(left):
        remaining = deadline - time.monotonic()
        if remaining < (_LEAST if unit.continues else unit.expected):
            unfinished.append(unit)
            continue
        start = time.monotonic()
        print(f"[{number + 1}/{len(left)}] {unit.name} …", flush=True)
        if work(unit):
            print(f"[{number + 1}/{len(left)}] {unit.name}: {time.monotonic() - start:.0f} s", flush=True)
            after_each()
        else:
            unfinished.append(unit)
    return unfinished


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call (default: 9)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="benchmarks/results/gpu by default; with --quick runs/gpu_quick"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="a folder of wheels for packages that are missing")
    parser.add_argument("--data", type=Path, metavar="DIR", help="BCCD's root; without it, only the demo is trained on")
    names = "; ".join(f"{letter}: {title}" for letter, title in PARTS.items())
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help=names)
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--quick", action="store_true", help="one unit of each kind, small, to see that it runs")
    return parser


if __name__ == "__main__":
    sys.exit(start())
