"""Charts: points where their values belong, and a dashed line that means linear growth."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from detection.report.charts import Panel, write_chart
from detection.report.charts import chart as svg_of

SVG = "{http://www.w3.org/2000/svg}"


def chart(path: Path, curves: dict[str, list[tuple[float, float]]], *, logarithmic: bool = True) -> ElementTree.Element:
    write_chart(path, "Growth of <things>", "things & more", [Panel("seconds", curves)], logarithmic=logarithmic)
    return ElementTree.parse(path).getroot()


def corners(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of each curve, in pixels."""
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in line)] for line in lines]


def test_linear_growth_lies_on_its_dashed_line_and_quadratic_growth_below(tmp_path: Path) -> None:
    sizes = (10.0, 100.0, 1000.0)
    root = chart(tmp_path / "a.svg", {"linear": [(x, 3 * x) for x in sizes], "quadratic": [(x, x * x) for x in sizes]})
    dashed = [path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib.get("class") == "linear"]
    for line, points, below in zip(dashed, corners(root), (False, True), strict=True):
        x1, y1, x0, y0 = map(float, re.findall(r"-?[\d.]+", line))
        assert (x1, y1) == points[-1]
        for x, y in points[:-1]:
            on_line = y1 + (y0 - y1) * (x - x1) / (x0 - x1)
            assert (y > on_line + 10) == below  # pixels count from the top
            assert below or y == pytest.approx(on_line, abs=0.3)


def test_equal_factors_are_equal_distances_on_logarithmic_axes_alone(tmp_path: Path) -> None:
    points = [(1.0, 5.0), (2.0, 5.0), (4.0, 10.0)]
    (first,) = corners(chart(tmp_path / "a.svg", {"curve": points}))
    assert first[1][0] - first[0][0] == pytest.approx(first[2][0] - first[1][0], abs=0.2)
    (second,) = corners(chart(tmp_path / "b.svg", {"curve": points}, logarithmic=False))
    assert 2 * (second[1][0] - second[0][0]) == pytest.approx(second[2][0] - second[1][0], abs=0.2)


def test_what_has_no_logarithm_is_left_out(tmp_path: Path) -> None:
    points = [(1.0, 0.0), (2.0, 5.0), (4.0, 10.0)]
    assert len(corners(chart(tmp_path / "a.svg", {"curve": points}))[0]) == 2
    assert len(corners(chart(tmp_path / "b.svg", {"curve": points}, logarithmic=False))[0]) == 3


@pytest.mark.parametrize("logarithmic", [True, False])
@pytest.mark.parametrize("values", [(0.001, 0.0011), (3, 3), (1, 1e6), (20, 90)])
def test_axes_are_labelled_and_everything_lies_within(
    tmp_path: Path, values: tuple[float, float], logarithmic: bool
) -> None:
    root = chart(tmp_path / "a.svg", {"curve": [(64, values[0]), (2000, values[1])]}, logarithmic=logarithmic)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Growth of <things>", "things & more", "seconds", "curve"} <= set(texts)
    labels = len([path for path in root.iter(f"{SVG}path") if path.attrib.get("class") == "grid"])
    assert len(texts) == 4 + labels
    assert labels >= 3
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert all(0 < x < width and 0 < y < height for line in corners(root) for x, y in line)


def test_a_chart_in_a_page_leaves_its_colours_to_the_page() -> None:
    curve = [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)]
    panel = Panel("F1 & more", {"<one>": curve}, (0.0, 1.0), (0.0, 1.0), {"best: 0.5": 0.5})
    root = ElementTree.fromstring(svg_of("score", [panel]))
    assert not list(root.iter(f"{SVG}style"))
    assert not list(root.iter(f"{SVG}rect"))
    assert not list(root.iter(f"{SVG}circle"))
    (line,) = corners(root)
    (mark,) = (path.attrib["d"] for path in root.iter(f"{SVG}path") if path.attrib.get("class") == "mark")
    assert float(re.findall(r"[\d.]+", mark)[0]) == pytest.approx(line[1][0], abs=0.1)
    assert line[0][1] - line[2][1] == pytest.approx(2 * (line[0][1] - line[1][1]) * 2, abs=0.5)
    assert "<one>" not in {text.text for text in root.iter(f"{SVG}text")}  # one curve needs no legend


def test_labels_of_marks_that_are_close_together_are_in_different_lines() -> None:
    panel = Panel("share", {"boxes": [(0.0, 0.0), (600.0, 1.0)]}, (0.0, 600.0), (0.0, 1.0), {
        "64": 64, "32": 32, "128": 128, "512": 512, "560": 560
    })  # fmt: skip
    root = ElementTree.fromstring(svg_of("pixels", [panel]))
    heights = {text.text: float(text.attrib["y"]) for text in root.iter(f"{SVG}text") if "class" in text.attrib}
    assert heights["32"] > heights["64"]
    assert heights["128"] == heights["32"]
    assert heights["512"] > heights["560"]


def test_a_long_curve_is_thinned() -> None:
    text = svg_of("step", [Panel("loss", {"loss": [(float(step), 1.0) for step in range(100_000)]})])
    assert len(text) < 20_000
