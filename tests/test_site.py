"""The site of docs/: built without a warning, and its pages in a real browser."""

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
