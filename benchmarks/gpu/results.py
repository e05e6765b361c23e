"""Results of a device in a folder: one JSON file for each unit of work, written when the unit ends.

A result: {"unit", "part", "arguments", "outcome": "done" or "failed", "error": text or null, "seconds", "environment",
"result": what the unit returned, or null}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from benchmarks.common import environment, processor, write_result
from benchmarks.gpu.units import Unit

WORK_FOLDER = "kept"  # beside the results: what units keep to go on with; it is not committed


@dataclass(frozen=True)
class Work:
    """What a unit needs to know.

    device: "cuda" or "cpu". quick: small and short, to see that it runs. folder: where it may keep files with which it
    goes on after an interruption.
    """

    device: torch.device
    quick: bool
    folder: Path

    def synchronize(self) -> None:
        """Waits until the device has computed all that was asked of it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def folder_of_device(output: Path, device: torch.device, *, quick: bool) -> Path:
    """The folder of the results of this device with this PyTorch: results of others are kept apart."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    words = [name, f"torch-{torch.__version__.partition('+')[0]}", *(["quick"] if quick else [])]
    return output / "_".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-") for word in words)


def about_device(device: torch.device) -> dict[str, Any]:
    """Hardware, versions, commit and command; of a GPU also its memory, its driver's CUDA and cuDNN."""
    about = environment("gpu", device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about["hardware"]["gpu_memory_gib"] = round(properties.total_memory / 2**30, 1)
        about["hardware"]["gpu_capability"] = f"{properties.major}.{properties.minor}"
        about["versions"] |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return about


def write_unit(
    folder: Path,
    unit: Unit,
    about: Mapping[str, Any],
    *,
    seconds: float,
    result: Any = None,
    error: str | None = None,
) -> None:
    """Writes the result of a unit, or its error."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "unit": unit.name,
        "part": unit.part,
        "arguments": dict(unit.arguments),
        "outcome": "done" if error is None else "failed",
        "error": error,
        "seconds": round(seconds, 2),
        "environment": about,
        "result": result,
    }
    write_result(folder / f"{unit.name}.json", content)


def read_units(folder: Path) -> dict[str, dict[str, Any]]:
    """All results in a folder, by the unit's name.

    Raises:
        UserError: a file that is no result.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("?_*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found[content["unit"]] = content
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: is no result of a unit ({error}); delete it, and the unit runs again") from None
    return found
