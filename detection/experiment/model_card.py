"""A trained detector and its evaluation → `README.md` of the run's folder: what was run, on what, with which result,
how to repeat it, and the licences of weights and data as far as known.

The facts are those inside `detector.pt` (`provenance`, configuration, classes), and the figures of the evaluation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import write_text
from backbones.common.text import printable
from detection import config as settings
from detection.common.tool_names import as_called_here
from detection.data.index import DatasetIndex
from detection.experiment.model_files import TrainedDetector
from detection.training.artifacts import versions

logger = logging.getLogger(__name__)

NAME = "README.md"
_MARK = "<!-- written by tools/train_fastrcnn.py and tools/eval_coco.py; remove this line to keep your changes -->"
_LARGEST_READ = 64 * 2**20  # bytes of an annotation file whose licences are looked up
_CLASSES_SHOWN = 20


def describe_data(index: DatasetIndex) -> dict[str, Any]:
    """The training images as plain values for a provenance: the annotation file's name, the numbers of images and
    objects, and the licences that a COCO file states, as text; None if they are not known."""
    return {
        "annotations": index.annotation_file.name,
        "images": len(index),
        "objects": len(index.boxes),
        "licences": _licences(index.annotation_file),
    }


def _licences(path: Path) -> str | None:
    try:
        if path.stat().st_size > _LARGEST_READ:
            return None
        found = json.loads(path.read_text(encoding="utf-8")).get("licenses")
        names = [str(one.get("name") or one.get("url")) for one in found if one.get("name") or one.get("url")]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return ", ".join(dict.fromkeys(names)) or None


def write_model_card(
    folder: Path, trained: TrainedDetector, config: settings.Config, evaluation: Mapping[str, Any] | None = None
) -> None:
    """Writes the run's `README.md`. One that a person wrote, or took the mark from, is kept.

    Args:
        evaluation: `annotations`, `figures` (of `AveragePrecision.to_dict`), `score`, `advice`; None before one.
    """
    path = folder / NAME
    try:
        if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
            logger.info("%s: not of this tool, kept", path)
            return
        write_text(path, _card(folder, trained, config, evaluation))
    except (OSError, UserError) as error:  # the run is complete without it
        logger.warning("%s was not written: %s", path, error)


def _card(folder: Path, trained: TrainedDetector, config: settings.Config, evaluation: Mapping[str, Any] | None) -> str:
    names = [printable(name) for name in trained.categories.names]
    more = f" and {len(names) - _CLASSES_SHOWN} more" if len(names) > _CLASSES_SHOWN else ""
    sections = [
        _MARK,
        f"# {printable(config.name)}",
        "A Faster R-CNN whose RPN and Fast R-CNN were trained separately and share no features. `detector.pt` contains "
        "both.",
        f"**Classes** ({len(names)}): {', '.join(names[:_CLASSES_SHOWN])}{more}.",
        "## Training\n\n" + _table([("", "RPN", "Fast R-CNN"), *_training(trained)]),
        "## Result\n\n" + (_result(evaluation) if evaluation else "Not evaluated yet."),
        "## How to repeat it\n\n"
        + as_called_here(
            "    python tools/train_rpn.py --config config.yaml\n"
            "    python tools/train_fastrcnn.py --config config.yaml\n"
            "    python tools/eval_coco.py --weights detector.pt\n\n"
        )
        + "`config.yaml` in this folder is the whole configuration (`output` in it is the run's folder). Versions: "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
        "## Licences, as far as known\n\n" + _licences_text(trained),
    ]
    return "\n\n".join(sections) + "\n"


def _training(trained: TrainedDetector) -> list[tuple[str, str, str]]:
    both = (trained.rpn, trained.fast_rcnn)
    data = [one.provenance.get("data") or {} for one in both]
    trainings = (trained.rpn.config.rpn.training, trained.fast_rcnn.config.fast_rcnn.training)
    rows: list[tuple[str, list[str]]] = [
        ("backbone", [one.config.backbone.name for one in both]),
        ("weights it began with", [_weights(one.began_with) for one in both]),
        ("training images", [f"{one['images']}, {one['annotations']}" if one else "unknown" for one in data]),
        ("fingerprint of the data", [str(one.provenance.get("train", "unknown"))[:16] for one in both]),
        ("steps", [str(one.provenance.get("steps", "unknown")) for one in both]),
        ("images a step", [str(training.global_batch) for training in trainings]),
        ("seed", [str(trained.rpn.config.seed), str(trained.fast_rcnn.config.seed)]),
    ]
    return [(name, printable(cells[0]), printable(cells[1])) for name, cells in rows]


def _weights(weights: Mapping[str, Any] | None) -> str:
    if weights is None:
        return "none: from scratch"
    return f"{weights.get('source') or weights.get('file')}, SHA-256 {str(weights.get('sha256'))[:12]}…"


def _licences_text(trained: TrainedDetector) -> str:
    lines = []
    for name, one in (("RPN", trained.rpn), ("Fast R-CNN", trained.fast_rcnn)):
        if one.began_with is not None:
            lines.append(f"weights that the {name} began with: {one.began_with.get('licence') or 'not known'}")
        data = one.provenance.get("data") or {}
        lines.append(f"training images of the {name}: {data.get('licences') or 'not known; see their source'}")
    return "\n".join(f"- {printable(line)}" for line in lines)


def _result(evaluation: Mapping[str, Any]) -> str:
    figures, figure_names = evaluation["figures"], ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    values = ["—" if figures["figures"][name] is None else f"{figures['figures'][name]:.3f}" for name in figure_names]
    text = f"On {printable(str(evaluation['annotations']))} ({figures['images']} images):\n\n"
    text += _table([figure_names, values])
    text += f"\n\nThe best score threshold of all classes together is {evaluation['score']:.3f} (F1 at IoU 0.5)."
    if evaluation["advice"]:
        text += "\n\nWhat to do next, by the figures:\n\n"
        text += "\n".join(f"{place}. {printable(line)}" for place, line in enumerate(evaluation["advice"], start=1))
    return text + "\n\nThe whole report: [evaluation/report.html](evaluation/report.html)"


def _table(rows: Any) -> str:
    head, *body = (["" if cell is None else str(cell).replace("|", "\\|") for cell in row] for row in rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
