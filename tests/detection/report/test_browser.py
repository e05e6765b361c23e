"""The report in a real browser: it draws its images without the network, in light and dark, narrow and wide."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.report.page import embed_image, write_report
from tests.detection.report.test_page import AVERAGE_PRECISION, ERRORS, RECALL

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAGENTA = (255, 0, 255)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"NO BROWSER ({', '.join(BROWSERS)}): the report was opened in none; apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.full((300, 1000, 3), MAGENTA, dtype=np.uint8)
    return write_report(
        tmp_path_factory.mktemp("report"),
        title="größe 猫 <script>console.error('run')</script>",
        average_precision=AVERAGE_PRECISION,
        errors=ERRORS,
        recall=RECALL,
        facts={"annotations": "/a/very/long/path" * 9},
        curves={"loss": [(1, 3.0), (2, 2.0), (3, 1.0)]},
        images=[(embed_image(image), "one"), (embed_image(image), "two")],
    )


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1600])
def test_it_is_drawn_whole(browser: str, page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=http://127.0.0.1:9"]  # no network
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--force-dark-mode"] if dark else []
    screenshot = tmp_path / "page.png"
    command += [f"--screenshot={screenshot}", f"--window-size={width},3500", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not screenshot.exists():
        pytest.skip(f"THE BROWSER DID NOT START, so that the report was opened in none: {done.stderr[-300:]}")
    assert "CONSOLE" not in done.stderr  # what the page's console would show: errors, refused requests
    pixels = cv2.imread(str(screenshot))[:, :, ::-1].astype(int)
    assert pixels.shape[1] == width
    assert (pixels[0, 0].mean() < 60) == dark
    # both images, in the page's width and in their proportions
    shown = (np.abs(pixels - MAGENTA) < 12).all(axis=-1)
    columns = np.flatnonzero(shown.any(axis=0))
    drawn_width = columns[-1] - columns[0] + 1
    assert drawn_width == min(1000, min(width, 1080) - 82)
    assert abs(shown.sum() / drawn_width**2 / 0.6 - 1) < 0.02
