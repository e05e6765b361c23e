"""Figures, curves and images of an evaluation → one self-contained HTML page, and the tables as plain text.

    <folder>/report.html    self-contained: its images are embedded; no script, no font, no network access
    <folder>/report.txt     the tables, for a terminal

Figures are the plain dicts of the evaluation's results (`to_dict()`, as in `figures.json`); curves are read from the
JSONL log of a training.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from backbones.common.text import printable

Curve = Sequence[tuple[float, float]]  # (step, value)

_NO_CURVE = {"kind", "step", "time", "images_per_second", "data_wait", "memory_mib", "time_left", "elapsed"}
_POINTS = 400  # of a curve, at most: more than a chart has pixels to show
_IMAGE_WIDTH, _IMAGE_HEIGHT = 1200, 1600  # pixels of an image on the page, at most
_JPEG_QUALITY = 82
# The page can load nothing (no script, no font, nothing from the network), even if a class's name contains HTML.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { --ink: #1d2129; --soft: #687080; --line: #e3e6eb; --fill: #2f6fed; --paper: #fff; --back: #f6f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #99a1b0; --line: #343a46; --fill: #6c9bff; --paper: #1c2029; --back: #14171d }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
body { overflow-wrap: anywhere }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px }
h1 { margin: 0 0 4px; font-size: 26px } h2 { margin: 0 0 14px; font-size: 18px }
section { margin-top: 20px; padding: 20px; overflow-x: auto }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); gap: 10px }
.figure { padding: 10px 12px; border: 1px solid var(--line); border-radius: 8px }
.figure b { display: block; font-size: 22px; font-variant-numeric: tabular-nums }
.figure span, .soft { color: var(--soft); font-size: 13px }
table { overflow-wrap: normal; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: right }
th { color: var(--soft); font-weight: 500; font-size: 13px }
.word, .bar { text-align: left }
.bar { width: 30% }
.bar div { height: 8px; border-radius: 4px; background: var(--fill) }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px }
figure { margin: 0 0 18px }
figure img { max-width: 100%; height: auto; border-radius: 6px; display: block }
figcaption { color: var(--soft); font-size: 13px }
svg text { fill: var(--soft); font-size: 11px }
svg polyline { fill: none; stroke: var(--fill); stroke-width: 1.5 }
svg path { fill: none; stroke: var(--line) }
"""


def embed_image(image: np.ndarray) -> str:
    """A uint8 (H, W, 3) RGB image → its text in a page: a JPEG as a data URI, scaled down to the size on the page."""
    height, width = image.shape[:2]
    scale = min(1.0, _IMAGE_WIDTH / width, _IMAGE_HEIGHT / height)
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
    errors: Mapping[str, Any] | None = None,
    recall: Mapping[str, Any] | None = None,
    tables: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
    curves: Mapping[str, Curve] | None = None,
    images: Sequence[tuple[str, str]] = (),
) -> Path:
    """Writes `report.html` and `report.txt` into `folder` and returns the page's path. What is not given is left out.

    Args:
        title: the page's heading.
        average_precision, errors, recall: the `to_dict()` of `AveragePrecision`, `ErrorAnalysis` and `ProposalRecall`
            (of detection.evaluation).
        tables: the same for `report.txt`, each as text.
        facts: what was evaluated (weights, data set, configuration …), name to value.
        curves: name to points (see `read_curves`); one chart each.
        images: (the text that `embed_image` returns, caption).

    Raises:
        CannotWrite: the folder cannot be written.
    """
    folder = Path(folder)
    sections = [_facts_section(facts or {})]
    if average_precision is not None:
        sections += [_figures_section(average_precision), _classes_section(average_precision)]
    if errors is not None:
        sections.append(_errors_section(errors))
    if recall is not None:
        sections.append(_recall_section(recall))
    sections += [_curves_section(curves or {}), _images_section(images)]
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{_text(title)}</h1>\n{''.join(sections)}</main></body></html>\n"
    )
    texts = [title, "\n".join(f"{name}: {value}" for name, value in (facts or {}).items()), *tables]
    plain = printable("\n\n".join(filter(None, texts)), keep_lines=True)
    for name, content in (("report.txt", plain + "\n"), ("report.html", page)):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
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


def _text(text: str) -> str:
    """Any text, escaped for HTML."""
    return escape(printable(text))


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{_text(heading)}</h2>\n{body}</section>\n"


def _facts_section(facts: Mapping[str, str]) -> str:
    return "".join(f'<div class="soft">{_text(name)}: {_text(str(value))}</div>\n' for name, value in facts.items())


def _figures_section(outcome: Mapping[str, Any]) -> str:
    cells = [
        f'<div class="figure"><span>{_text(name)}</span><b>{_number(value)}</b><span>{_meaning(name)}</span></div>\n'
        for name, value in outcome["figures"].items()
    ]
    notes = "".join(f'<p class="soft">{_text(note)}</p>\n' for note in outcome["notes"])
    counts = f'<p class="soft">{outcome["images"]} images, {outcome["detections"]} detections</p>\n'
    return _section("COCO figures", f'<div class="figures">{"".join(cells)}</div>{counts}{notes}')


def _meaning(name: str) -> str:
    """A COCO figure's name → what it measures.

    >>> _meaning("AP75"), _meaning("AR_10"), _meaning("AP_small")
    ('AP, IoU 0.75, all, 100 an image', 'AR, IoU 0.50–0.95, all, 10 an image', 'AP, IoU 0.50–0.95, small, 100 an image')
    """
    found = re.fullmatch(r"(AP|AR)(\d\d)?(?:_(\d+))?(?:_([a-z]+))?", name)
    if not found:
        return ""
    kind, threshold, limit, size = found.groups()
    return f"{kind}, IoU {f'0.{threshold}' if threshold else '0.50–0.95'}, {size or 'all'}, {limit or 100} an image"


def _classes_section(outcome: Mapping[str, Any]) -> str:
    classes = outcome["classes"]
    rows = [[row["name"], str(row["objects"]), _number(row["AP"]), _number(row["AP50"])] for row in classes]
    return _section(
        "Classes", _table(["class", "objects", "AP", "AP@0.5"], rows, [row["AP"] or 0.0 for row in classes])
    )


def _errors_section(errors: Mapping[str, Any]) -> str:
    total = sum(errors["counts"].values())
    counts = [(f"{kind} (of detections)", count, total) for kind, count in errors["counts"].items()]
    counts.append(("missed (of objects)", errors["missed"], errors["objects"]))
    shares = [count / whole if whole else 0.0 for _, count, whole in counts]
    rows = [[kind, str(count), f"{share:.1%}"] for (kind, count, _), share in zip(counts, shares, strict=True)]
    body = (
        f'<p class="soft">Detections with a score of at least {errors["score_threshold"]:.3f}, at IoU 0.5: precision '
        f"{_number(errors['precision'])}, recall {_number(errors['recall'])}.</p>"
    ) + _table(["kind", "count", "share"], rows, shares)
    if errors["confusions"]:
        listed = "; ".join(f"{true} taken for {predicted}: {count}" for true, predicted, count in errors["confusions"])
        body += f'<p class="soft">Most frequent confusions: {_text(listed)}.</p>\n'
    return _section("Kinds of error", body)


def _recall_section(recall: Mapping[str, Any]) -> str:
    """One row per object size, one column per number of proposals; the names state both (`AR_1000_small`)."""
    rows: dict[str, dict[int, float | None]] = {}
    for name, value in recall["figures"].items():
        kind, limit, *size = name.split("_")
        row = "recall at IoU 0.5" if kind == "recall50" else f"AR {'_'.join(size) or 'all'}"
        rows.setdefault(row, {})[int(limit)] = value
    objects = {f"AR {name}": count for name, count in recall["objects"].items()}
    limits = sorted({limit for row in rows.values() for limit in row})
    cells = [
        [row, str(objects.get(row, recall["objects"]["all"])), *(_number(values.get(limit)) for limit in limits)]
        for row, values in rows.items()
    ]
    return _section("Proposal recall", _table(["proposals an image", "objects", *map(str, limits)], cells))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], bars: Sequence[float] | None = None) -> str:
    """A table whose first column is text and whose others are numbers; `bars` (0–1) adds a column of bars."""

    def line(cells: Sequence[str], tag: str, bar: str) -> str:
        first, *others = cells
        numbers = "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in others)
        return f'<tr><{tag} class="word">{_text(first)}</{tag}>{numbers}{bar}</tr>\n'

    widths = [f'<td class="bar"><div style="width:{100 * bar:.1f}%"></div></td>' for bar in bars or []]
    body = [line(cells, "td", bar) for cells, bar in zip(rows, widths or [""] * len(rows), strict=True)]
    return f"<table>{line(head, 'th', '<th></th>' if bars else '')}{''.join(body)}</table>\n"


def _curves_section(curves: Mapping[str, Curve]) -> str:
    charts = [f"<div>{_text(name)}{_chart(points)}</div>\n" for name, points in curves.items() if len(points) > 1]
    return _section("Training", f'<div class="curves">{"".join(charts)}</div>') if charts else ""


def _chart(points: Curve, width: int = 320, height: int = 150) -> str:
    """One curve as an SVG, with its extremes written at the axes."""
    points = points[:: max(1, len(points) // _POINTS)]
    left, bottom, top = 56, 20, 8
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = (steps[-1] - steps[0]) or 1.0, (high - low) or 1.0
    line = " ".join(
        f"{left + (width - left - 6) * (step - steps[0]) / across:.1f},"
        f"{top + (height - bottom - top) * (1 - (value - low) / up):.1f}"
        for step, value in points
    )
    floor = height - bottom
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img"><path d="M{left} {top}V{floor}H{width}"/>'
        f'<text x="{left - 4}" y="{top + 8}" text-anchor="end">{high:.2g}</text>'
        f'<text x="{left - 4}" y="{floor}" text-anchor="end">{low:.2g}</text>'
        f'<text x="{left}" y="{height - 5}">{steps[0]:g}</text>'
        f'<text x="{width - 4}" y="{height - 5}" text-anchor="end">step {steps[-1]:g}</text>'
        f'<polyline points="{line}"/></svg>'
    )


def _images_section(images: Sequence[tuple[str, str]]) -> str:
    shown = [
        f'<figure><img src="{escape(embedded)}" alt="{_text(caption)}">'
        f"<figcaption>{_text(caption)}</figcaption></figure>\n"
        for embedded, caption in images
    ]
    return _section("Images", "".join(shown)) if shown else ""


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"
