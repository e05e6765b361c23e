"""Packages that the benchmarks need and that are missing → installed from a folder of wheels, without a network."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

from backbones.common.errors import UserError

# The module that is imported → the package that holds it.
NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "tqdm": "tqdm",
    "pycocotools": "pycocotools",
    "cv2": "opencv-python-headless",
    "albumentations": "albumentations",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "tensorboard": "tensorboard",
}
WELCOME = {"pytest": "pytest", "hypothesis": "hypothesis"}  # without them, the tests for GPUs are left out


def install_missing(wheels: Path | None) -> None:
    """Installs what is missing from the folder; what is there keeps its version.

    Raises:
        UserError: something that is needed is missing, and there is no folder or no wheel for it.
    """
    missing = {package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None}
    if wheels is None:
        if missing:
            raise UserError(
                f"missing packages: {', '.join(sorted(missing))}. Give a folder of wheels with --wheels, filled by "
                f"`pip download -d DIR {' '.join(sorted(missing))}` on a machine with the same system and Python"
            )
        return
    if not wheels.is_dir():
        raise UserError(f"--wheels {wheels}: there is no such folder")
    for package in sorted(
        missing | {one for module, one in WELCOME.items() if importlib.util.find_spec(module) is None}
    ):
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--find-links",
            str(wheels),
            package,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and package in missing:
            raise UserError(f"--wheels {wheels}: {package} cannot be installed from it:\n{done.stderr.strip()}")
    importlib.invalidate_caches()
