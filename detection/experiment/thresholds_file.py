"""The best score threshold of each class ↔ `thresholds.json` of an evaluation folder, which `tools/predict.py` reads.

The file names the detector by the SHA-256 of its `detector.pt`: thresholds of another detector are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import sha256_of, write_json

NAME = "thresholds.json"


def write_thresholds(
    path: Path, detector: Path, names: Sequence[str], by_class: Sequence[float], overall: float, annotations: str
) -> None:
    """Writes the thresholds of K classes in the order of the detector's labels.

    annotations: the file that they were chosen on.
    """
    content = {
        "detector_sha256": sha256_of(detector),
        "chosen": f"the best F1 at IoU 0.5 on {annotations}",
        "overall": overall,
        "classes": [{"name": name, "threshold": threshold} for name, threshold in zip(names, by_class, strict=True)],
    }
    write_json(path, content, indent=1)


def read_thresholds(path: Path, detector: Path, names: Sequence[str], digest: str | None = None) -> list[float]:
    """The thresholds of the detector's K classes, in the order of its labels.

    digest: the SHA-256 of the `detector.pt`; None: that of the file `detector`.

    Raises:
        UserError: the file is missing or no thresholds file, or belongs to another detector.
    """
    remedy = f"tools/eval_coco.py --weights {detector} writes it"
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); {remedy}") from error
    try:
        chosen_for = content["detector_sha256"]
        found = [(row["name"], float(row["threshold"])) for row in content["classes"]]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path} is no file of thresholds ({error!r}); {remedy}") from error
    if chosen_for != (digest or sha256_of(detector)):
        raise UserError(f"{path}: its thresholds were chosen for another detector than {detector}; {remedy} anew")
    if [name for name, _ in found] != list(names) or not all(math.isfinite(value) for _, value in found):
        raise UserError(f"{path}: its classes are not those of {detector}, or a threshold is no number; {remedy} anew")
    return [value for _, value in found]
