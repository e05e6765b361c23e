"""Figures as plain dicts → the tables, charts and texts of the report's sections, as the template takes them.

The dicts are the `to_dict()` of the results of `detection.evaluation`. A section whose figures are missing is None or
empty, and the template leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from backbones.common.text import printable
from detection.common.tool_names import as_called_here
from detection.report.charts import Panel, chart
from detection.report.kinds import KINDS, css_color

_LARGEST_MATRIX = 25  # classes that a matrix on a page can show
_RECALL_SHOWN = (0, 5, 8)  # of the ten IoU thresholds: 0.5, 0.75, 0.9


@dataclass(frozen=True)
class Table:
    """A table whose first column, and those in `words`, are text and whose others are numbers; bars (0–1) add a column
    of bars with the heading `bars_of`, colors (CSS) a dot before the first column."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[float] = ()
    bars_of: str = ""
    colors: Sequence[str] = ()
    words: Sequence[int] = (0,)
    sortable: bool = False
    name: str = ""


def coco_figures(outcome: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, meaning) of each figure."""
    return [(name, number(value), meaning(name)) for name, value in outcome["figures"].items()]


def meaning(name: str) -> str:
    """A COCO figure's name → what it measures.

    >>> meaning("AP75"), meaning("AR_1")
    ('IoU 0.75, 100 detections an image', 'IoU 0.50–0.95, 1 detection an image')
    >>> meaning("AP_small")
    'IoU 0.50–0.95, small, 100 detections an image'
    """
    found = re.fullmatch(r"(AP|AR)(\d\d)?(?:_(\d+))?(?:_([a-z]+))?", name)
    if not found:
        return ""
    _, threshold, limit, size = found.groups()
    iou = f"0.{threshold}" if threshold else "0.50–0.95"
    return f"IoU {iou}{f', {size}' if size else ''}, {limit or 100} detection{'s' * (limit != '1')} an image"


def score_charts(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Precision against recall, F1 against score, and the reliability curve."""
    thresholds, calibration = analysis["thresholds"], analysis["calibration"]
    levels = [i / 100 for i in range(101)]
    best = thresholds["overall"]
    unit = (0.0, 1.0)
    charts = []
    if analysis["precision"]:
        curves = {f"all classes, IoU {iou}": values for iou, values in analysis["precision"].items()}
        curves |= {printable(name): values for name, values in analysis["precision_of_classes"].items()}
        points = {name: list(zip(levels, values, strict=True)) for name, values in curves.items()}
        text = "The area below a curve is AP at its IoU threshold"
        text += "; single classes, those with the most objects, at IoU 0.5." if len(points) > 2 else "."
        charts.append({"svg": _svg("recall", Panel("precision", points, unit, unit)), "text": text})
    f1 = {
        "F1": list(zip(levels, thresholds["f1"], strict=True)),
        "precision": [(x, y) for x, y in zip(levels, thresholds["precision"], strict=True) if y is not None],
        "recall": list(zip(levels, thresholds["recall"], strict=True)),
    }
    panel = Panel("F1, precision and recall (IoU 0.5)", f1, unit, unit, {f"best: {best:.2f}": best})
    text = (
        f"F1 of all classes together is best ({thresholds['best_f1']:.3f}) at a score of {best:.3f}. What is counted "
        "and drawn on this page has at least this score. tools/predict.py --thresholds best takes the best threshold "
        "of each class, see the table of classes."
    )
    text = as_called_here(text)
    charts.append({"svg": _svg("score threshold", panel), "text": text})
    bins = zip(calibration["scores"], calibration["correct"], strict=True)
    reliability = [(x, y) for x, y in bins if x is not None]
    if len(reliability) > 1:
        panel = Panel(
            "share of detections that are correct", {"detector": reliability, "ideal": [(0, 0), (1, 1)]}, unit, unit
        )
        text = (
            f"Expected calibration error {calibration['error']:.3f}, of {sum(calibration['counts'])} detections with a "
            f"score of at least {analysis['calibration_from']:.2f}. Below the ideal line, scores are too high."
        )
        charts.append({"svg": _svg("score", panel), "text": text})
    return charts


def training_charts(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[Markup]:
    """A chart for each curve of more than one point."""
    return [_svg("step", Panel(printable(name), {name: points})) for name, points in curves.items() if len(points) > 1]


def _svg(x_label: str, panel: Panel) -> Markup:
    return Markup(chart(x_label, [panel]))  # the chart escapes its texts


def mistakes(errors: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of each kind and what it costs."""
    total = sum(errors["counts"].values())
    counts = [(kind, count, total, "detections") for kind, count in errors["counts"].items()]
    counts.append(("missed", errors["missed"], errors["objects"], "objects"))
    rows = [
        [
            KINDS[kind].heading,
            KINDS[kind].meaning,
            str(count),
            f"{count / whole:.1%} of {unit}" if whole else "—",
            number(errors["costs"].get(kind)),
        ]
        for kind, count, whole, unit in counts
    ]
    costs = [errors["costs"].get(kind, 0.0) for kind, *_ in counts]
    most = max([*costs, 1e-9])
    notes = []
    if errors["confusions"]:
        listed = "; ".join(f"{true} taken for {predicted}: {count}" for true, predicted, count in errors["confusions"])
        notes.append(f"Most frequent confusions: {listed}.")
    if errors["ignored"]:
        notes.append(f"{errors['ignored']} more detections lie in crowd regions and do not count.")
    return {
        "text": f"Detections with a score of at least {errors['score_threshold']:.3f}, at IoU 0.5: precision "
        f"{number(errors['precision'])}, recall {number(errors['recall'])}. The AP lost is what AP at IoU 0.5 "
        f"({number(errors['average_precision'])}) would gain if this kind of mistake alone were repaired (TIDE). These "
        "gains do not add up.",
        "table": Table(
            ["kind", "what it is", "count", "share", "AP lost"],
            rows,
            [cost / most for cost in costs],
            "AP lost",
            [css_color(kind) for kind, *_ in counts],
            (0, 1),
        ),
        "notes": notes,
    }


def proposals_or_classifier(share: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Recall of the proposals by size, and AP with the ground truth in their place."""
    if share is None:
        return None
    own, ideal = share["figures"], share["with_ground_truth"]
    text = (
        f"With the objects' own boxes in place of the RPN's proposals (at most {share['proposals']} an image), AP "
        f"would be {number(ideal['AP'])} instead of {number(own['AP'])}, and AP at IoU 0.5 {number(ideal['AP50'])} "
        f"instead of {number(own['AP50'])}. The difference is what the proposals lose; the rest is lost by the "
        "classifier. Recall is the share of objects that a proposal overlaps by the IoU or more."
    )
    shown = [0.5 + 0.05 * i for i in _RECALL_SHOWN]
    rows = [
        [name, str(share["objects"][name]), *(number(values and values[i]) for i in _RECALL_SHOWN)]
        for name, values in share["recall"].items()
    ]
    bars = [(values[0] if values else 0.0) for values in share["recall"].values()]
    head = ["objects of size (pixels)", "objects", *(f"recall at {iou:.2g}" for iou in shown)]
    return {"text": text, "table": Table(head, rows, bars, head[2])}


def classes(outcome: Mapping[str, Any], analysis: Mapping[str, Any] | None) -> Table:
    """One row a class, sortable."""
    head, words = ["class", "objects", "AP", "AP@0.5"], [0]
    rows = [[row["name"], str(row["objects"]), number(row["AP"]), number(row["AP50"])] for row in outcome["classes"]]
    if analysis is not None:
        thresholds = analysis["thresholds"]
        head, words = [*head, "best threshold", "F1 there", "most often taken for"], [0, 6]
        for k, row in enumerate(rows):
            counts = analysis["confusion_matrix"][k][:-1]
            others = [(count, -other) for other, count in enumerate(counts) if other != k and count]
            most = max(others, default=None)
            taken = "—" if most is None else f"{outcome['classes'][-most[1]]['name']} ({most[0]})"
            row += [f"{thresholds['by_class'][k]:.3f}", number(thresholds["f1_by_class"][k]), taken]
    bars = [row["AP"] or 0.0 for row in outcome["classes"]]
    return Table(head, rows, bars, "AP", words=words, sortable=True, name="classes")


def confusion_matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> dict[str, Any] | None:
    """The matrix with background, of the classes that are confused most if there are many."""
    size = len(names)
    wrong = [sum(counts[k]) + sum(row[k] for row in counts) - 2 * counts[k][k] for k in range(size)]
    shown = list(range(size))
    if size > _LARGEST_MATRIX:
        shown = sorted(sorted((k for k in shown if wrong[k]), key=lambda k: -wrong[k])[:_LARGEST_MATRIX])
    if not shown:
        return None
    text = "Each object in one row, each detection in one column, at the best threshold of all classes and IoU 0.5."
    if len(shown) < size:
        text += f" The {len(shown)} classes with the most mistakes of {size}."
    places = [*shown, size]
    rows = []
    for k in places:
        total = max(1, sum(counts[k]))
        cells = [{"count": str(counts[k][other] or ""), "shade": 0.75 * counts[k][other] / total} for other in places]
        rows.append({"name": "background" if k == size else names[k], "cells": cells})
    return {"text": text, "columns": [*(names[k] for k in shown), "missed"], "rows": rows}


def attributes(bins: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """AP and recall of each bin of each attribute."""
    sections = []
    for name, attribute in bins.items():
        rows = [
            [row["name"], str(row["objects"]), number(row["recall"]), number(row["AP50"])] for row in attribute["bins"]
        ]
        bars = [row["AP50"] or 0.0 for row in attribute["bins"]]
        table = Table([name, "objects", "recall", "AP@0.5"], rows, bars, "AP@0.5")
        sections.append({"name": name, "text": f"{attribute['meaning']}; recall at any score.", "table": table})
    return sections


def proposal_recall(recall: Mapping[str, Any]) -> Table:
    """One row per object size, one column per number of proposals; the names state both (`AR_1000_small`)."""
    rows: dict[str, dict[int, float | None]] = {}
    for name, value in recall["figures"].items():
        kind, limit, *size = name.split("_")
        row = "recall at IoU 0.5" if kind == "recall50" else f"AR {'_'.join(size) or 'all'}"
        rows.setdefault(row, {})[int(limit)] = value
    objects = {f"AR {name}": count for name, count in recall["objects"].items()}
    limits = sorted({limit for row in rows.values() for limit in row})
    cells = [
        [row, str(objects.get(row, recall["objects"]["all"])), *(number(values.get(limit)) for limit in limits)]
        for row, values in rows.items()
    ]
    return Table(["proposals an image", "objects", *map(str, limits)], cells)


def number(value: float | None) -> str:
    """Three decimals, or a dash for None."""
    return "—" if value is None else f"{value:.3f}"
