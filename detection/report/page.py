"""Figures, curves and images of an evaluation → one self-contained HTML page, and the tables as plain text.

    <folder>/report.html    self-contained: images, style and script are inside; no font, no network access
    <folder>/report.txt     the tables, for a terminal

Figures are the plain dicts of the evaluation's results (`to_dict()`, as in `figures.json` and `analysis.json`); curves
are read from the JSONL log of a training.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import write_text
from backbones.common.text import printable
from detection.common.tool_names import as_called_here
from detection.report import sections
from detection.report.earlier_analysis import RENEWAL, missing_for_page
from detection.report.kinds import KINDS, css_color
from detection.report.template import render

Curve = Sequence[tuple[float, float]]  # (step, value)

_NO_CURVE = {"kind", "step", "time", "images_per_second", "data_wait", "memory_mib", "time_left", "elapsed"}
_IMAGE_WIDTH, _IMAGE_HEIGHT = 1200, 1600  # pixels of an image on the page, at most
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class ShownImage:
    """An image on the page: the text that `embed_image` returns, its caption, and the kinds of mistake in it."""

    embedded: str
    caption: str
    kinds: Sequence[str] = ()


@dataclass(frozen=True)
class ShownSuspicions:
    """Labels that may be wrong: a text about them, and groups of (heading, images)."""

    text: str
    groups: Sequence[tuple[str, Sequence[ShownImage]]]


def embed_image(image: np.ndarray, *, longest: int = _IMAGE_HEIGHT) -> str:
    """A uint8 (H, W, 3) RGB image → its text in a page: a JPEG as a data URI, scaled down to the size on the page, and
    to at most `longest` pixels a side."""
    height, width = image.shape[:2]
    scale = min(1.0, _IMAGE_WIDTH / width, _IMAGE_HEIGHT / height, longest / max(height, width))
    image = np.ascontiguousarray(image[:, :, ::-1])
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")


def write_report(
    folder: Path | str,
    *,
    title: str,
    average_precision: Mapping[str, Any] | None = None,
    analysis: Mapping[str, Any] | None = None,
    recall: Mapping[str, Any] | None = None,
    advice: Sequence[str] = (),
    tables: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    curves: Mapping[str, Curve] | None = None,
    suspicions: ShownSuspicions | None = None,
    images: Sequence[ShownImage] = (),
) -> Path:
    """Writes `report.html` and `report.txt` into `folder` and returns the page's path. What is not given is left out.

    Args:
        title: the page's heading.
        average_precision, recall: the `to_dict()` of `AveragePrecision` and `ProposalRecall` (of detection.evaluation).
        analysis: as `detection.experiment.analysis.analyse` makes it; needs `average_precision`. One of an earlier
            version that lacks a part of it is left out, and the page says so.
        advice: sentences on what to do next, see `detection.report.advice`.
        tables: the same for `report.txt`, each as text.
        facts: what was evaluated (weights, data set, configuration …), name to value.
        curves: name to points (see `read_curves`); one chart each.
        suspicions: labels that may be wrong.
        images: in the order of the page.

    Raises:
        CannotWrite: the folder cannot be written.
    """
    folder = Path(folder)
    outcome, advice = average_precision, [as_called_here(sentence) for sentence in advice]
    notes = [f"{outcome['images']} images, {outcome['detections']} detections", *outcome["notes"]] if outcome else []
    if analysis and (missing := missing_for_page(analysis)):
        notes.append(
            f"the analysis was written by an earlier version and lacks {', '.join(missing)}; this page goes without "
            f"it: {as_called_here(RENEWAL)}"
        )
        analysis = None
    page = render(
        "report.html.j2",
        title=title,
        facts=facts or {},
        advice=advice,
        figures=sections.coco_figures(outcome) if outcome else [],
        notes=notes,
        charts=sections.score_charts(analysis) if analysis else [],
        mistakes=sections.mistakes(analysis["errors"]) if analysis else None,
        share=sections.proposals_or_classifier(analysis.get("proposal_share")) if analysis else None,
        classes=sections.classes(outcome, analysis) if outcome else None,
        matrix=sections.confusion_matrix(
            [row["name"] for row in outcome["classes"]], analysis["confusion_matrix"]
        ) if outcome and analysis else None,
        attributes=sections.attributes(analysis["attributes"]) if analysis else [],
        recall=sections.proposal_recall(recall) if recall else None,
        suspicions={
            "text": suspicions.text,
            "groups": [{"heading": heading, "images": shown} for heading, shown in suspicions.groups],
        } if suspicions else None,
        images=images,
        legend=[
            {"name": name, "heading": kind.heading, "meaning": kind.meaning, "color": css_color(name)}
            for name, kind in KINDS.items()
        ] if analysis else [],
        shown_kinds={kind for image in images for kind in image.kinds},
        training=sections.training_charts(curves or {}),
    )  # fmt: skip
    next_steps = "\n".join(f"{place}. {sentence}" for place, sentence in enumerate(advice, start=1))
    facts_text = "\n".join(f"{name}: {value}" for name, value in (facts or {}).items())
    texts = [title, facts_text, f"What to do next:\n{next_steps}" if advice else "", *tables]
    plain = printable("\n\n".join(filter(None, texts)), keep_lines=True)
    for name, content in (("report.txt", plain + "\n"), ("report.html", page)):
        write_text(folder / name, content)
    return folder / "report.html"


def read_curves(log: Path | str) -> dict[str, list[tuple[float, float]]]:
    """A training's `log.jsonl` → name to (step, value) pairs: losses, learning rate, periodic evaluations.

    Incomplete lines (the last one of a run that was killed) and values that are not finite are skipped.

    Raises:
        UserError: the file cannot be read.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{log} cannot be read: {error.strerror or error}") from error
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or not _is_finite(entry.get("step")):
            continue
        for name, value in entry.items():
            if name not in _NO_CURVE and _is_finite(value):
                curves.setdefault(name, []).append((float(entry["step"]), float(value)))
    return curves


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
