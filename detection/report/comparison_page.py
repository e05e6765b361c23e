"""A comparison of runs → one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from backbones.common.files import write_text
from backbones.common.text import printable
from detection.report.charts import Panel, chart
from detection.report.sections import Table
from detection.report.template import render

Cells = Sequence[Sequence[str]]


def write_comparison(
    path: Path,
    *,
    names: Sequence[str],
    facts: Sequence[str],
    verdicts: Sequence[str],
    sizes: Cells,
    classes: Cells,
    settings: Mapping[str, Sequence[str]],
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
) -> None:
    """Writes the page.

    Args:
        names: of the runs. facts, verdicts: sentences.
        sizes, classes: rows of name, objects, AP of each run, difference of each run but the first from the first.
        settings: key → its value in each run. curves: name → run → points.

    Raises:
        CannotWrite: the file cannot be written.
    """
    head = ["objects", *names, *(f"{name} − {names[0]}" for name in names[1:])]
    sizes, classes = _unbroken(sizes), _unbroken(classes)
    page = render(
        "comparison.html.j2",
        title=f"Comparison of {', '.join(names)}",
        facts=facts,
        verdicts=verdicts,
        explanation="AP at IoU 0.50–0.95, and in brackets its 95% confidence interval (bootstrap over the images). "
        "If the interval of a difference does not contain 0, the choice of the test images does not explain it.",
        sizes=Table(["size", *head], sizes),
        classes=Table(["class", *head], classes, sortable=True, name="classes"),
        charts=[
            # every run in every chart, so that each has one colour
            Markup(chart("step", [Panel(printable(name), {printable(run): runs.get(run, ()) for run in names})]))
            for name, runs in curves.items()
        ],
        settings=Table(["key", *names], [[key, *values] for key, values in settings.items()],
                       words=range(len(names) + 1)) if settings else None,
    )  # fmt: skip
    write_text(path, page)


def _unbroken(rows: Cells) -> Cells:
    """The cells with no line break within an interval."""
    return [[row[0], *(cell.replace(" … ", "\u00a0…\u00a0") for cell in row[1:])] for row in rows]
