"""Curves → a chart as SVG: panels side by side, on linear or on logarithmic axes.

Logarithmic axes have a dashed line of linear growth for each curve, which ends in the curve's last point: a curve that
lies on its line grows linearly, one above it to the left grows less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from backbones.common.files import write_text

Points = Sequence[tuple[float, float]]

_COLOURS = ("#2f6fed", "#d9541e", "#1f9254", "#a050c0", "#b8860b", "#808894")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 400, 260, 58, 14, 40  # of a panel, and its margins
_LEGEND, _GAP = 18, 8  # height of a line of the legend, and the space below the legend
_LETTER = 9  # width of a letter of the title, at most
_POINTS = 400  # of a curve, at most: more than a chart has pixels to show
# Of a chart in a file of its own; a page styles its charts itself, in light and dark.
_STYLE = """
.back { fill: #fff } text { font: 12px system-ui, sans-serif; fill: #444b57 } .frame { fill: none; stroke: #c5cad3 }
.grid { stroke: #e9ebef } .curve { fill: none; stroke-width: 2 } .linear { stroke-dasharray: 3 4; opacity: .55 }
.mark { stroke: #444b57; stroke-dasharray: 5 3 } .over { stroke: #fff; stroke-width: 4px; paint-order: stroke }
"""


class Panel(NamedTuple):
    """One set of axes.

    label: what is measured, with its unit. curves: the points by name; the order of the names is that of the colours.
    x_range, y_range: the ends of the axes; None for those of the points with a little room. marks: x values at which a
    dashed vertical line stands, by label.
    """

    label: str
    curves: Mapping[str, Points]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    marks: Mapping[str, float] = {}


class _Axis(NamedTuple):
    """A range of values on a range of pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    def place(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the range, few enough to be labelled."""
        if not self.logarithmic:
            step = 10 ** math.floor(math.log10(self.high - self.low))
            step *= next(factor for factor in (0.2, 0.5, 1, 2) if (self.high - self.low) / (factor * step) <= 6)
            first = math.ceil(self.low / step)
            return [number * step for number in range(first, math.floor(self.high / step * (1 + 1e-9)) + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if self.high / self.low < 200 else (1,)
        values = [factor * 10.0**decade for decade in decades for factor in factors]
        return [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]


def write_chart(path: Path, title: str, x_label: str, panels: Sequence[Panel], *, logarithmic: bool = True) -> None:
    """Writes a chart with a title into a file of its own. All curves need at least two points; with logarithmic axes,
    points that are not above 0 are left out.

    Raises:
        CannotWrite: the file cannot be written.
    """
    write_text(path, chart(x_label, panels, title=title, logarithmic=logarithmic, dots=True))


def chart(
    x_label: str, panels: Sequence[Panel], *, title: str = "", logarithmic: bool = False, dots: bool = False
) -> str:
    """The chart as an `<svg>` element. Without a title, it has no style and no background of its own: the page's style
    has `.frame`, `.grid`, `.curve`, `.mark`, and `.over` of the text at a mark.

    dots: draw a dot at each point.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    head = 34 if title else 10
    top = head + (_LEGEND * len(names) + _GAP if len(names) > 1 or title else 0)
    width, height = max(_WIDTH * len(panels), _LEFT + _LETTER * len(title) if title else 0), top + _HEIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"']
    if title:
        parts[0] += (
            f' width="{width}" height="{height}" role="img"><title>{escape(title)}</title><style>{_STYLE}</style>'
            f'<rect class="back" width="{width}" height="{height}"/>'
            f'<text x="{_LEFT}" y="20" style="font-size:14px;font-weight:600">{escape(title)}</text>'
        )
    else:
        parts[0] += f' role="img" aria-label="{escape("; ".join(panel.label for panel in panels))}">'
    for number, name in enumerate(names if top > head else []):
        y = head + 2 + _LEGEND * number
        parts.append(f'<path d="M{_LEFT} {y}h18" stroke="{colours[name]}" class="curve"/>')
        parts.append(f'<text x="{_LEFT + 25}" y="{y + 4}">{escape(name)}</text>')
    for number, panel in enumerate(panels):
        parts += _panel(panel, number, top, x_label, colours, logarithmic, dots)
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    panel: Panel, number: int, top: float, x_label: str, colours: Mapping[str, str], logarithmic: bool, dots: bool
) -> list[str]:
    curves = {
        name: [(x, y) for x, y in _thinned(points) if not logarithmic or (x > 0 and y > 0)]
        for name, points in panel.curves.items()
    }
    left, right = _WIDTH * number + _LEFT, _WIDTH * (number + 1) - _RIGHT
    floor = top + _HEIGHT - _BOTTOM
    xs, ys = ([point[side] for points in curves.values() for point in points] for side in (0, 1))
    across = _Axis(*(panel.x_range or _range(xs, logarithmic)), left, right, logarithmic)
    up = _Axis(*(panel.y_range or _range(ys if logarithmic else [0, *ys], logarithmic)), floor, top + 18, logarithmic)
    parts = [f'<text x="{left}" y="{top + 8}">{escape(panel.label)}</text>']
    if logarithmic:
        inside = f'x="{left}" y="{top + 18}" width="{right - left}" height="{floor - top - 18}"'
        parts.append(f'<clipPath id="panel{number}"><rect {inside}/></clipPath>')
    for value in across.ticks():
        x = across.place(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {floor}V{top + 18}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{_short(value)}</text>')
    for value in up.ticks():
        y = up.place(value)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for name, points in curves.items():
        places = [(round(across.place(x), 1), round(up.place(y), 1)) for x, y in points]
        corners = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline class="curve" stroke="{colours[name]}" points="{corners}"/>')
        if dots:
            parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colours[name]}"/>' for x, y in places]
        if logarithmic and points:
            (x, y), x0 = points[-1], across.low
            line = f"M{across.place(x):.1f} {up.place(y):.1f}L{across.place(x0):.1f} {up.place(y * x0 / x):.1f}"
            parts.append(f'<path class="linear" clip-path="url(#panel{number})" stroke="{colours[name]}" d="{line}"/>')
    row, taken = 0, float(left)  # the line of text of the last label, counted from below, and where the label ends
    for label, value in sorted(panel.marks.items(), key=lambda mark: mark[1]):
        length = float(_LETTER * len(label))
        x = across.place(value)
        before = x > (left + right) / 2
        start = x - 5 - length if before else x + 5
        row = row + 1 if start < taken else 0
        taken = start + length
        parts.append(f'<path class="mark" d="M{x:.1f} {floor}V{top + 18}"/>')
        parts.append(
            f'<text class="over" x="{x + (-5 if before else 5):.1f}" y="{floor - 6 - _LEGEND * row}" '
            f'text-anchor="{"end" if before else "start"}">{escape(label)}</text>'
        )
    parts.append(f'<path class="frame" d="M{left} {top + 18}V{floor}H{right}"/>')
    parts.append(f'<text x="{(left + right) / 2}" y="{floor + 34}" text-anchor="middle">{escape(x_label)}</text>')
    return parts


def _thinned(points: Points) -> Points:
    return points if len(points) <= _POINTS else points[:: -(-len(points) // _POINTS)]


def _range(values: Sequence[float], logarithmic: bool) -> tuple[float, float]:
    """The least and the greatest with a little room around them; never empty."""
    low, high = min(values), max(values)
    if logarithmic:
        room = max(1.06, (high / low) ** 0.04)
        return low / room, high * room
    room = 0.04 * (high - low) or 1.0
    return low, high + room


def _short(value: float) -> str:
    """
    >>> [_short(value) for value in (0.005, 20, 2000, 1e6)]
    ['0.005', '20', '2k', '1M']
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size * 0.9999:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
