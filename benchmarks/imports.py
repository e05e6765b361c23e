"""How long starting takes: `import detection` beside `import torch, torchvision`, and every tool's `--help`.

    python -m benchmarks.imports

Each import and each tool runs in a fresh Python, in turns, once untimed (it fills the file cache) and then in rounds.
Python's own start, a few hundredths of a second, is part of each time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import RESULTS, ROOT, Timing, environment, interleaved, markdown, seconds, table, write_result
from detection.command_line import run

LIBRARIES = "import torch, torchvision"
IMPORTS = (
    LIBRARIES,
    "import detection",
    "from detection import Detector",
    "import detection.experiment.stages",
    "import backbones",
)
MOST_RATIO, MOST_SECONDS = 1.5, 1.0  # to `LIBRARIES`; of a --help


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round of one import and one tool; no file")
    parser.add_argument("--output", type=Path, help="benchmarks/results/imports.json by default")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    imports = {name: partial(_run, "-c", name) for name in IMPORTS[: 2 if options.quick else None]}
    helps = {name: partial(_run, *command, "--help") for name, command in tools().items()}
    if options.quick:
        helps = dict([next(iter(helps.items()))])
    import_times = interleaved(imports, repeats)
    help_times = interleaved(helps, repeats)
    tables = [imports_table(import_times), helps_table(help_times)]
    print("\n\n".join(map(markdown, tables)))
    output = options.output or (None if options.quick else RESULTS / "imports.json")
    if output is not None:
        numbers = {name: timing.to_dict() for name, timing in (import_times | help_times).items()}
        about = environment("imports")
        write_result(output, {"title": "Start-up", "environment": about, "tables": tables, "seconds": numbers})
        print(f"\n{output}")
    return 0


def tools() -> dict[str, Sequence[str]]:
    """Every command-line tool: its name → Python's arguments that run it."""
    scripts = sorted(path for path in (ROOT / "tools").glob("*.py") if not path.name.startswith("_"))
    found: dict[str, Sequence[str]] = {f"tools/{path.name}": (str(path),) for path in scripts}
    return {**found, "python -m backbones": ("-m", "backbones")}


def imports_table(timings: Mapping[str, Timing]) -> dict[str, object]:
    """Each import's time, and its ratio to that of the libraries."""
    rows = [
        [f"`{name}`", seconds(timing.median), f"{timing.ratio_to(timings[LIBRARIES]):.2f}"]
        for name, timing in timings.items()
    ]
    title = f"Imports (to be at most {MOST_RATIO} × those of `{LIBRARIES}`)"
    return table(title, ["in a fresh Python", "median", "ratio"], rows)


def helps_table(timings: Mapping[str, Timing]) -> dict[str, object]:
    """Each tool's time until it has printed its help."""
    rows = [
        [f"`{name} --help`", seconds(timing.median), seconds(max(timing.rounds))] for name, timing in timings.items()
    ]
    return table(f"Help (to take less than {MOST_SECONDS:.0f} s)", ["tool", "median", "slowest"], rows)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(run(main))
