"""How long starting takes: `import detection` and a detector's first answer beside `import torch, torchvision`, and
every tool's `--help`.

    python -m benchmarks.imports

Each import and each tool runs in a fresh Python, in turns, once untimed (it fills the file cache) and then in rounds.
Python's own start, a few hundredths of a second, is part of each time. The first answer is that of a detector with the
networks of configs/demo.yaml and random weights: import, load, detect in one image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import RESULTS, ROOT, Timing, environment, interleaved, present, seconds, table
from detection.command_line import run
from detection.config_file import load_config
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.experiment.model_files import Categories, Trained, TrainedDetector, save_detector

LIBRARIES = "import torch, torchvision"
IMPORTS = (
    LIBRARIES,
    "import detection",
    "from detection import Detector",
    "import detection.experiment.stages",
    "import backbones",
)
MOST_RATIO, MOST_SECONDS = 1.5, 1.0  # to `LIBRARIES`; of a --help
FIRST_ANSWER = "from `import` to a Detector's first answer"
MOST_SECONDS_TO_ANSWER = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one round of one import and one tool; no file")
    parser.add_argument("--output", type=Path, help="benchmarks/results/imports.json by default")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    imports = {name: partial(_run, "-c", name) for name in IMPORTS[: 2 if options.quick else None]}
    with tempfile.TemporaryDirectory() as folder:
        path = save_random_detector(Path(folder))
        imports[FIRST_ANSWER] = partial(_run, "-c", first_answer(path))
        import_times = interleaved(imports, repeats)
    helps = {name: partial(_run, *command, "--help") for name, command in tools().items()}
    if options.quick:
        helps = dict([next(iter(helps.items()))])
    help_times = interleaved(helps, repeats)
    tables = [imports_table(import_times), helps_table(help_times)]
    output = options.output or (None if options.quick else RESULTS / "imports.json")
    numbers = {name: timing.to_dict() for name, timing in (import_times | help_times).items()}
    present(output, "Start-up", environment("imports"), tables, seconds=numbers)
    return 0


def save_random_detector(folder: Path) -> Path:
    """A detector.pt of the demo's networks with random weights."""
    config = load_config(ROOT / "configs" / "demo.yaml")
    categories = Categories((1,), ("thing",))
    rpn, fast_rcnn = build_rpn(config, pretrained=False), build_fast_rcnn(config, 1, pretrained=False)
    path = folder / "detector.pt"
    save_detector(path, TrainedDetector(Trained(rpn, config, categories), Trained(fast_rcnn, config, categories)))
    return path


def first_answer(path: Path) -> str:
    """Python's statements that load a detector and let it answer."""
    image = "numpy.zeros((240, 320, 3), numpy.uint8)"
    return f"import numpy; from detection import Detector; Detector.load({str(path)!r}, 'cpu')({image})"


def tools() -> dict[str, Sequence[str]]:
    """Every command-line tool: its name → Python's arguments that run it."""
    scripts = sorted(path for path in (ROOT / "tools").glob("*.py") if not path.name.startswith("_"))
    found: dict[str, Sequence[str]] = {f"tools/{path.name}": (str(path),) for path in scripts}
    return {**found, "python -m backbones": ("-m", "backbones")}


def imports_table(timings: Mapping[str, Timing]) -> dict[str, object]:
    """Each import's time, and its ratio to that of the libraries."""
    rows = [
        [name if "`" in name else f"`{name}`", seconds(timing.median), f"{timing.ratio_to(timings[LIBRARIES]):.2f}"]
        for name, timing in timings.items()
    ]
    title = (
        f"Imports (to be at most {MOST_RATIO} × those of `{LIBRARIES}`; a first answer in less than "
        f"{MOST_SECONDS_TO_ANSWER:.0f} s)"
    )
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
