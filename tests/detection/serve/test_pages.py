"""The server's pages: made of the schema, and in a real browser: boxes, the slider, the token, errors in words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.detection.serve.served import Served  # isort: skip

from detection.detector_interface import ImageDetections
from detection.serve.requests import Limits
from tests.detection.report.browser import Tab, find_browser

BOXES = [(40, 100, 200, 220), (300, 20, 560, 60), (500, 300, 600, 400), (10, 350, 60, 390)]  # in 600 × 400 pixels
SCORES = [0.9, 0.6, 0.55, 0.2]
NAMES = ["cat", "<b>dog</b>", "a name that is rather long for so small an object", "cat"]
LABELS = [1, 2, 3, 1]
TOKEN = "sésame 猫"


def stand_in(images: Any, **settings: Any) -> list[ImageDetections]:
    """Four fixed detections in every image."""
    labels = np.array(LABELS, dtype=np.int64)
    boxes, scores = np.array(BOXES, dtype=np.float32), np.array(SCORES, dtype=np.float32)
    return [ImageDetections(boxes, scores, labels, NAMES, labels) for _ in images]


def test_the_interface_is_described_without_anything_of_another_server() -> None:
    with Served(stand_in, token="secret") as secured, Served(stand_in) as served:
        status, page, headers = served.ask("/docs")
        with_token = secured.ask("/docs")[1]
        schema = served.ask("/openapi.json")[1]
        assert "securitySchemes" in secured.ask("/openapi.json")[1]["components"]
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            assert f"{method.upper()} <code>{path}</code>" in page
            assert html.escape(operation["description"]) in page
            assert operation["responses"].keys() <= set(re.findall(r"<td>(\d{3})</td>", page))
    assert {"image/*", "multipart/form-data", "boxes", "names"} <= set(re.findall(r"<code>([^<]*)</code>", page))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(re.findall(r'id="([^"]*)"', page))
    assert not re.search(r"https?:|//", page)
    assert "list of list of number" in page
    assert ("needs the token" in page, "needs the token" in with_token) == (False, True)


@pytest.fixture(scope="module")
def browser() -> str:
    return find_browser()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of 600 × 400 pixels in one colour, stored turned by 90°."""
    path = tmp_path_factory.mktemp("images") / "a street &amp; more.jpg"
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (400, 600), (128, 96, 64)).save(path, exif=turned)
    return path


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(stand_in, limits=Limits(body_bytes=1 << 20)) as running:
        yield running


@pytest.fixture(scope="module")
def tab(browser: str, served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with Tab(browser, f"{served.server.url}/", tmp_path_factory.mktemp("profile")) as opened:
        yield opened


STATUS = "document.querySelector('#status').textContent"
SHOWN = "[...document.querySelectorAll('.box')].filter(one => one.offsetHeight > 0).map(one => one.textContent)"
ROWS = "[...document.querySelectorAll('#rows tr')].filter(one => one.offsetHeight > 0).length"
IS_ERROR = "document.querySelector('#status').classList.contains('error')"


def drop(tab: Tab, path: Path, until: str) -> None:
    tab.drop("#drop", path)
    tab.wait(f"{STATUS}.includes({until!r})")


def test_a_dropped_image_is_shown_with_its_boxes(tab: Tab, image: Path) -> None:
    tab.resize(1600)
    assert tab.evaluate("document.querySelector('#result').hidden") is True
    drop(tab, image, "3 of 4 detections in a street &amp; more.jpg, 600 × 400 pixels")
    assert tab.evaluate(SHOWN) == ["cat 0.90", "<b>dog</b> 0.60", f"{NAMES[2]} 0.55"]
    assert tab.evaluate(ROWS) == 3
    drawn = tab.evaluate("(() => { const one = document.querySelector('#image').getBoundingClientRect();"
                         "return [one.x, one.y, one.width, one.height] })()")  # fmt: skip
    assert drawn[2:] == pytest.approx([640, 640 / 1.5], abs=0.1)  # enlarged
    for number, expected in enumerate(BOXES[:3]):
        x, y, width, height = tab.evaluate(
            f"(() => {{ const one = document.querySelectorAll('.box')[{number}].getBoundingClientRect();"
            "return [one.x, one.y, one.width, one.height] })()"
        )
        edges = np.array([x, y, x + width, y + height]) - np.array([*drawn[:2]] * 2)
        np.testing.assert_allclose(edges * 600 / 640, expected, atol=0.1)
    pixels = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    column, row = round(drawn[0] + 43.2), round(drawn[1] + 160)  # on the left side of the first box
    assert np.abs(pixels[row, column].astype(int) - (128, 96, 64)).max() > 40
    assert np.abs(pixels[row, column + 60].astype(int) - (128, 96, 64)).max() < 8


def test_the_slider_shows_more_and_fewer_without_a_request(tab: Tab, served: Served, image: Path) -> None:
    drop(tab, image, "3 of 4")
    before = served.metric('detector_requests_total{status="200"}')
    tab.click("#score")  # the middle, 0.5
    for _ in range(6):
        tab.press("ArrowRight", 39)
    assert tab.evaluate("document.querySelector('#least').textContent") == "0.56"
    assert tab.evaluate(SHOWN) == ["cat 0.90", "<b>dog</b> 0.60"]
    assert tab.evaluate(ROWS) == 2
    assert tab.evaluate(STATUS).startswith("2 of 4")
    tab.press("Home", 36)
    assert len(tab.evaluate(SHOWN)) == 4
    tab.press("End", 35)
    assert tab.evaluate(SHOWN) == []
    assert served.metric('detector_requests_total{status="200"}') == before
    tab.click("#score")


def test_a_chosen_file_and_one_that_cannot_be_used(tab: Tab, image: Path, tmp_path: Path) -> None:
    for name, content, words in (
        ("words.jpg", b"words", "is no image"),
        ("empty.png", b"", "there is no image"),
        ("large.png", bytes((1 << 20) + 1), "more than the 1048576 accepted"),
    ):
        (tmp_path / name).write_bytes(content)
        drop(tab, tmp_path / name, words)
        assert tab.evaluate(IS_ERROR) is True
        assert tab.evaluate(SHOWN) == []
    tab.choose("#file", image)
    tab.wait(f"{STATUS}.startsWith('3 of 4')")
    assert tab.evaluate(IS_ERROR) is False


def test_an_image_that_the_browser_cannot_show_has_its_boxes_on_an_empty_area(tab: Tab, tmp_path: Path) -> None:
    Image.new("RGB", (600, 400)).save(tmp_path / "scan.tiff")
    drop(tab, tmp_path / "scan.tiff", "3 of 4 detections in scan.tiff")
    assert len(tab.evaluate(SHOWN)) == 3
    assert "cannot show" in tab.evaluate("document.querySelector('#note:not([hidden])').textContent")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_the_pages_fit_their_window(browser: str, tab: Tab, image: Path, width: int, dark: bool) -> None:
    tab.resize(width, dark=dark)
    drop(tab, image, "3 of 4")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    assert tab.hard_to_read() == []
    pixels = cv2.imdecode(np.frombuffer(tab.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape[1] == width
    assert (pixels[2, 2].mean() < 60) == dark


@pytest.mark.parametrize("dark", [False, True])
def test_the_description_of_the_interface_can_be_read(browser: str, served: Served, dark: bool, tmp_path: Path) -> None:
    with Tab(browser, f"{served.server.url}/docs", tmp_path) as tab:
        for width in (400, 1600):
            tab.resize(width, dark=dark)
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
            assert tab.hard_to_read() == []


def test_the_box_of_a_higher_score_is_on_top(tab: Tab, image: Path) -> None:
    tab.resize(1600)
    drop(tab, image, "3 of 4")
    heights = tab.evaluate("[...document.querySelectorAll('.box')].map(one => Number(getComputedStyle(one).zIndex))")
    assert heights == sorted(set(heights), reverse=True)


def test_the_page_asks_for_the_token(browser: str, image: Path, tmp_path: Path) -> None:
    with Served(stand_in, token=TOKEN) as running, Tab(browser, f"{running.server.url}/", tmp_path) as tab:
        drop(tab, image, "needs its token")
        tab.click("#token")
        tab.type("wrong")
        tab.click("#access button")
        tab.wait(f"{STATUS}.includes('Bearer')")
        tab.evaluate("document.querySelector('#token').value = ''")
        tab.click("#token")
        tab.type(TOKEN)
        tab.click("#access button")
        tab.wait(f"{STATUS}.startsWith('3 of 4')")
        assert tab.evaluate("performance.getEntriesByType('resource').map(one => one.name.split('/').at(-1))") == [
            "detect", "detect"
        ]  # fmt: skip
