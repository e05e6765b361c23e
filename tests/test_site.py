"""The site of docs/: built without a warning, and its pages in a real browser, in light and dark, at two widths."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.detection.report.browser import Tab, find_browser
from tests.documented_commands import REPOSITORY

NAMES = sorted(path.stem for path in (REPOSITORY / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the pages."""
    if importlib.util.find_spec("zensical") is None:
        pytest.skip("NO ZENSICAL: the site was not built; pip install -r requirements-dev.txt")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(REPOSITORY / "docs", folder / "docs")
    shutil.copy(REPOSITORY / "zensical.toml", folder)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def tab(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with Tab(find_browser(), site / "index.html", tmp_path_factory.mktemp("profile")) as opened:
        opened.resize(400)
        yield opened


@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_a_narrow_window_and_shows_its_images(tab: Tab, site: Path, name: str) -> None:
    tab.open(site / f"{name}.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    # A table or block of code that is wider scrolls by itself: nothing else reaches over the edge.
    over = """[...document.querySelectorAll('article *')].filter(one => one.getBoundingClientRect().right > 400
        && !one.closest('.md-typeset__scrollwrap, pre')).map(one => one.outerHTML.slice(0, 200))"""
    assert tab.evaluate(over) == []
    assert tab.evaluate("[...document.images].filter(one => !one.naturalWidth).map(one => one.src)") == []
    # The cells of a row stand below each other, with their headings.
    hidden = """[...document.querySelectorAll('article table:has(th:nth-child(3)) td')].filter(one => one.textContent
        && (one.getBoundingClientRect().right > 400 || one.getBoundingClientRect().left < 0)).length"""
    assert tab.evaluate(hidden) == 0


@pytest.mark.parametrize("name", ["index", "first_hour", "report"])
def test_every_text_can_be_read(tab: Tab, site: Path, name: str) -> None:
    tab.open(site / f"{name}.html")
    still = "* { transition: none !important; animation: none !important }"
    tab.evaluate(f"document.head.append(Object.assign(document.createElement('style'), {{textContent: '{still}'}}))")
    for width in (400, 1600):
        for dark in (False, True):
            tab.resize(width, dark=dark)
            tab.wait(f"(document.body.dataset.mdColorScheme === 'slate') === {'true' if dark else 'false'}")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert [one for one in tab.hard_to_read() if one[0] == "contrast" or one[1] < 10] == []
    tab.resize(400)


def test_code_breaks_between_its_parts(tab: Tab, site: Path) -> None:
    """An option stays in one line, and a long path breaks after a slash, two colons or an underscore."""
    tab.open(site / "faults.html")
    code = "[...document.querySelectorAll('td code')].find(one => one.textContent.includes('test_repaired_and_'))"
    parts = tab.evaluate(f"{code}.innerHTML.split('<wbr>')")
    assert parts[:3] == ["detection/", "data/", "test_"]
    assert tab.evaluate(f"{code}.textContent").count("::") == 1
    options = "[...document.querySelectorAll('code span')].filter(one => one.textContent.startsWith('--'))"
    assert tab.evaluate(f"{options}.length") > 0
    assert tab.evaluate(f"{options}.filter(one => one.getClientRects().length > 1).length") == 0
