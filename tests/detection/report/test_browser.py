"""The report in a real browser: drawn without the network, in light and dark, at two widths; sorted, filtered,
zoomed. No page of a data set, an evaluation or a comparison is wider than the window."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from markupsafe import Markup

from detection.report.charts import Panel, chart
from detection.report.comparison_page import write_comparison
from detection.report.dataset_page import Block, write_dataset_page
from detection.report.page import ShownImage, embed_image, write_report
from detection.report.sections import Table
from tests.detection.report.browser import OPTIONS, Tab, find_browser
from tests.detection.report.test_page import ANALYSIS, AVERAGE_PRECISION, RECALL

MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def browser() -> str:
    return find_browser()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.full((300, 1000, 3), MAGENTA, dtype=np.uint8)
    return write_report(
        tmp_path_factory.mktemp("report"),
        title="größe 猫 <script>console.error('run')</script>",
        average_precision=AVERAGE_PRECISION,
        analysis=ANALYSIS,
        advice=["larger images or smaller anchors"],
        recall=RECALL,
        facts={"annotations": "/a/very/long/path" * 9},
        curves={"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]},
        images=[
            ShownImage(embed_image(image), "one", ["missed"]),
            ShownImage(embed_image(image), "two", ["confusion"]),
        ],
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_is_drawn_whole(browser: str, page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    command = [browser, *OPTIONS, "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--force-dark-mode"] if dark else []
    screenshot = tmp_path / "page.png"
    command += [f"--screenshot={screenshot}", f"--window-size={width},9000", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not screenshot.exists():
        pytest.skip(f"THE BROWSER DID NOT START, so that the report was opened in none: {done.stderr[-300:]}")
    assert "CONSOLE" not in done.stderr  # what the page's console would show: errors, refused requests
    pixels = cv2.imread(str(screenshot))[:, :, ::-1].astype(np.int16)
    assert pixels.shape[1] == width
    assert (pixels[0, 0].mean() < 60) == dark
    # both images, in the page's width and in their proportions
    shown = (np.abs(pixels - MAGENTA) < 12).all(axis=-1)
    columns = np.flatnonzero(shown.any(axis=0))
    drawn_width = columns[-1] - columns[0] + 1
    assert drawn_width == min(1000, min(width, 1080) - (42 if width < 520 else 82))
    assert abs(shown.sum() / drawn_width**2 / 0.6 - 1) < 0.02


@pytest.fixture(scope="module")
def tab(browser: str, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with Tab(browser, page, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


LONG = "a_very_long_name_without_any_place_to_break_it_" * 3


@pytest.fixture(scope="module")
def wide_pages(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three kinds of pages, with names and values that are wider than a telephone."""
    folder = tmp_path_factory.mktemp("pages")
    image = ShownImage(embed_image(np.full((300, 1000, 3), MAGENTA, dtype=np.uint8)), LONG)
    table = Table(["split", *(f"column {number}" for number in range(9))], [[LONG, *["1,234,567"] * 9]])
    curve = chart("step", [Panel(LONG, {"one": [(0.0, 1.0), (1.0, 2.0)]})])
    write_dataset_page(
        folder / "dataset.html",
        title=LONG,
        facts={"data.train": f"/{LONG}/{LONG}"},
        advice=[LONG],
        blocks=[Block(LONG, [LONG], [table], [(Markup(curve), LONG)] * 3, [f"anchor_sizes: [{LONG}]"], [image] * 5)],
    )
    cells = ["100", *["0.512 (0.480 … 0.540)"] * 3, *["+0.012 (-0.480 … +0.540)"] * 2]
    write_comparison(
        folder / "comparison.html",
        names=["one", "two", LONG],
        facts=[LONG],
        verdicts=[LONG],
        sizes=[["all", *cells]],
        classes=[[LONG, *cells]],
        settings={f"rpn.{LONG}": ["1", "2", LONG]},
        curves={
            "loss": {"one": [(1, 3.0), (2, 2.0)], "two": [(1, 3.0), (2, 1.0)]},
            "AP": {"two": [(1, 0.1), (2, 0.2)]},
        },
    )
    return {"report": page, "dataset": folder / "dataset.html", "comparison": folder / "comparison.html"}


@pytest.mark.parametrize("kind", ["report", "dataset", "comparison"])
def test_no_page_is_wider_than_the_window(browser: str, wide_pages: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """A wide table scrolls by itself, below its heading. Every text can be read, in light and dark."""
    with Tab(browser, wide_pages[kind], tmp_path / "profile") as opened:
        for width in (400, 1600):
            for dark in (False, True):
                opened.resize(width, dark=dark)
                assert opened.evaluate("document.documentElement.scrollWidth") == width
                sections = opened.evaluate(
                    "[...document.querySelectorAll('section')].map(one => one.getBoundingClientRect().right)"
                )
                assert sections
                assert max(sections) <= width
                spilled = opened.evaluate(
                    "[...document.querySelectorAll('h1, h2, .soft, li, svg, img, pre, .wide')].filter(one => "
                    f"one.getBoundingClientRect().right > {width}).map(one => one.outerHTML.slice(0, 200))"
                )
                assert spilled == []
                scrolling = opened.evaluate(
                    "[...document.querySelectorAll('body *')].filter(one => one.scrollWidth > one.clientWidth + 1 && "
                    "one.clientWidth && getComputedStyle(one).overflowX === 'auto')"
                    ".filter(one => !one.matches('.wide, pre')).map(one => one.outerHTML.slice(0, 200))"
                )
                assert scrolling == []
                assert opened.hard_to_read() == []


def test_a_run_has_one_colour_in_all_charts_of_a_comparison(
    browser: str, wide_pages: dict[str, Path], tmp_path: Path
) -> None:
    """Also where another run has no such curve."""
    with Tab(browser, wide_pages["comparison"], tmp_path / "profile") as opened:
        colours = opened.evaluate(
            "[...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('polyline')]"
            ".map(one => [one.getAttribute('stroke'), one.getAttribute('points') !== '']))"
        )
    loss, ap = colours
    assert [has for _, has in loss] == [True, True, False]
    assert [has for _, has in ap] == [False, True, False]
    assert [colour for colour, _ in loss] == [colour for colour, _ in ap]
    assert len({colour for colour, _ in ap}) == 3


COLUMN = "[...document.querySelectorAll('#classes tbody tr')].map(row => row.children[{}].textContent)"


def test_classes_are_sorted_by_a_click(tab: Tab) -> None:
    first, second = "<b>cat</b> & co", r'do"g\x1b[2J\u202e'
    names = COLUMN.format(0)
    assert tab.evaluate(names) == [first, second]
    tab.click("#classes th:nth-child(1) button")
    assert tab.evaluate(names) == [first, second]  # ascending
    tab.click("#classes th:nth-child(1) button")
    assert tab.evaluate(names) == [second, first]
    tab.click("#classes th:nth-child(5) button")  # best threshold, descending
    assert tab.evaluate(COLUMN.format(4)) == ["0.500", "0.250"]
    tab.click("#classes th:nth-child(5) button")
    assert tab.evaluate(COLUMN.format(4)) == ["0.250", "0.500"]
    for _ in range(2):  # a dash is last in both directions
        tab.click("#classes th:nth-child(3) button")
        assert tab.evaluate(COLUMN.format(2)) == ["0.700", "—"]
    assert tab.evaluate("document.querySelector('#classes th:nth-child(3)').ariaSort") == "ascending"


def test_classes_are_filtered_by_their_name(tab: Tab) -> None:
    shown = "[...document.querySelectorAll('#classes tbody tr')].filter(row => row.offsetHeight > 0).length"
    assert tab.evaluate(shown) == 2
    tab.click("input[data-filters]")
    tab.type("CAT")
    assert tab.evaluate(shown) == 1
    tab.evaluate("{ const box = document.querySelector('input[data-filters]'); box.value = ''; "
                 "box.dispatchEvent(new Event('input')) }")  # fmt: skip
    assert tab.evaluate(shown) == 2


def test_images_are_filtered_by_the_kind_of_mistake(tab: Tab) -> None:
    shown = "[...document.querySelectorAll('figure')].filter(one => one.offsetHeight > 0).map(one => one.textContent)"
    assert tab.evaluate(shown) == ["one", "two"]
    tab.click("button[data-kind=confusion]")
    assert tab.evaluate(shown) == ["two"]
    assert tab.evaluate("document.querySelector('button[data-kind=confusion]').ariaPressed") == "true"
    tab.click("button[data-kind='']")
    assert tab.evaluate(shown) == ["one", "two"]


def test_bars_say_which_column_they_show(tab: Tab) -> None:
    headings = tab.evaluate("[...document.querySelectorAll('th.bar')].map(one => one.textContent)")
    assert headings == ["AP lost", "recall at 0.5", "AP", "AP@0.5", "AP@0.5", "AP@0.5"]


def test_an_image_is_zoomed(tab: Tab) -> None:
    is_open, width = "document.querySelector('dialog').open", "document.querySelector('dialog img').clientWidth"
    assert tab.evaluate(is_open) is False
    tab.click("figure img")
    assert tab.evaluate(is_open) is True
    fitted = tab.evaluate(width)
    tab.click("dialog img")
    assert tab.evaluate(width) >= 2 * fitted
    tab.click("dialog img")
    assert tab.evaluate(width) == fitted
    tab.press_escape()
    tab.wait("!document.querySelector('dialog').open")
    tab.evaluate("document.querySelector('figure img').focus()")
    tab.press("Enter", 13)
    assert tab.evaluate(is_open) is True
    tab.press_escape()
    tab.wait("!document.querySelector('dialog').open")
