"""A TIFF that is not decoded whole: the objects of the image, by windows, and a small drawing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import huge_images
from detection.data import images
from detection.data.images import read_image
from detection.predict import predict
from tests.detection.videos import SquareDetector, frame

tifffile = pytest.importorskip("tifffile", reason="TIFFFILE MISSING: windows of TIFFs were not read")

BOXES = [(20, 30, 70, 80, 1), (270, 100, 340, 260, 2), (580, 380, 639, 470, 3), (300, 400, 420, 450, 1)]


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "images" / "large.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, frame(BOXES, 480, 640), photometric="rgb", tile=(64, 64))
    monkeypatch.setattr(images, "PIXEL_LIMIT", 300_000)  # below the 307,200 of the image
    return path


def test_an_image_beyond_the_limit_is_detected_window_by_window(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_images, "OVERVIEW_SIDE", 512)
    Image.fromarray(frame(BOXES[:1])).save(large.parent / "small.png")
    summary = predict(SquareDetector(), [large.parent], tmp_path / "out", tile=300, overlap=0.3)
    assert (summary.images, summary.unreadable, summary.detections) == (2, 0, 5)
    entry = json.loads((tmp_path / "out" / "detections.json").read_text())[0]
    assert (entry["width"], entry["height"]) == (640, 480)
    found = sorted((*one["box"], one["category"]) for one in entry["detections"])
    names = ("red", "green", "blue")
    assert found == sorted((x0, y0, x1, y1, names[label - 1]) for x0, y0, x1, y1, label in BOXES)
    drawn = read_image(tmp_path / "out" / "large.jpg").astype(int)
    assert drawn.shape == (384, 512, 3)
    green = drawn[120:190, 230:260]  # within the second box, at 0.8 of the size
    assert np.abs(green - np.array([0, 255, 0])).mean() < 40


def test_without_tiles_it_is_refused_and_the_message_says_how(
    large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert predict(SquareDetector(), [large], tmp_path / "out").unreadable == 1
    assert "claims 640×480 pixels" in caplog.text
    assert "if it is too large, --tile reads it window by window" in caplog.text


def test_what_is_no_tiff_is_told_and_the_others_are_processed(
    large: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (large.parent / "a.tif").write_text("hello")
    summary = predict(SquareDetector(), [large.parent], tmp_path / "out", tile=300)
    assert (summary.images, summary.unreadable) == (2, 1)
    assert "a.tif: cannot be read as a TIFF" in caplog.text
