"""The runtime without PyTorch beside the full installation: its size, and the time from the start of Python to the
first detections.

    python -m benchmarks.runtime_install --weights runs/demo/detector.pt --exported detector.onnx --image street.jpg

Makes an environment in a temporary folder as docs/export.md says, with pip. The full installation is the environment
that this runs in: its size counts only the packages that requirements.txt leads to.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import venv
from functools import partial
from pathlib import Path

from backbones.common.errors import UserError
from benchmarks.common import RESULTS, ROOT, environment, interleaved, markdown, seconds, table, write_result
from detection.command_line import run

_RUNTIME = "from detection.export.runtime import Detector; print(len(Detector.load({!r}, 'cpu')({!r})))"
_FULL = "from detection import Detector; print(len(Detector.load({!r}, 'cpu')({!r})))"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, metavar="FILE", help="detector.pt")
    parser.add_argument("--exported", type=Path, required=True, metavar="FILE", help="its detector.onnx")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS / "runtime_install.json")
    options = parser.parse_args()
    weights, exported, image = (str(path.resolve()) for path in (options.weights, options.exported, options.image))
    with tempfile.TemporaryDirectory() as folder:
        python = runtime_environment(Path(folder))
        sizes = {"runtime": size_of(Path(folder)), "full": size_of_packages(ROOT / "requirements.txt")}
        commands = {
            "runtime": partial(_run, [str(python), "-c", _RUNTIME.format(exported, image)], Path(folder)),
            "full": partial(_run, [sys.executable, "-c", _FULL.format(weights, image)], ROOT),
        }
        taken = interleaved(commands, options.repeats)
    names = {"runtime": "the runtime, without PyTorch", "full": "the full installation"}
    rows = [
        [names[who], f"{sizes[who] / 1e6:.0f} MB", seconds(taken[who].median), seconds(taken[who].first or 0.0)]
        for who in names
    ]
    columns = ["", "installed", "start of Python to first detections", "the first time"]
    found = table("An exported detector without PyTorch", columns, rows)
    print(markdown(found))
    numbers = {who: {"bytes": sizes[who], **taken[who].to_dict()} for who in names}
    about = environment("runtime_install", packages=["onnxruntime"])
    title = "Size and start-up of the runtime"
    write_result(options.output, {"title": title, "environment": about, "tables": [found], "numbers": numbers})
    print(f"\n{options.output}")
    return 0


def runtime_environment(folder: Path) -> Path:
    """Python of a new environment with the runtime's packages and this project."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    for arguments in (["-r", "requirements-runtime.txt", "-c", "constraints.txt"], ["--no-deps", "."]):
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments]
        subprocess.run(command, cwd=ROOT, check=True)
    return python


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder, without pip and setuptools, which come with it."""
    own = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(path.stat().st_size for path in own if not {"pip", "setuptools"} & set(path.parts))


def size_of_packages(requirements: Path) -> int:
    """Bytes of the installed packages that a file of requirements leads to."""
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requirements.read_text(encoding="utf-8").splitlines()]
    left, known = [name for name in names if name], set()
    total = 0
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in known:
            continue
        known.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system or version of Python
        total += sum(Path(str(file.locate())).stat().st_size for file in package.files or () if file.locate().exists())
        left += [re.split(r"[^A-Za-z0-9._-]", one)[0] for one in package.requires or () if "extra ==" not in one]
    return total


def _run(command: list[str], folder: Path) -> None:
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if outcome.returncode:
        raise UserError(f"{' '.join(command)} failed: {outcome.stderr.strip().splitlines()[-1:]}")


if __name__ == "__main__":
    sys.exit(run(main))
