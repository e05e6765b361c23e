"""Drawings are written as JPEGs that are known again, and nothing else is replaced by one."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.common.errors import UserError
from detection.data.images import read_image
from detection.report.drawing_file import require_replaceable, save_drawing


def red(height: int = 20, width: int = 30) -> np.ndarray:
    return np.full((height, width, 3), (250, 0, 0), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.jpg", "ü ß.JPEG"])
def test_it_is_a_jpeg_in_rgb(tmp_path: Path, name: str) -> None:
    path = tmp_path / "folder" / name
    save_drawing(path, red())
    assert np.abs(read_image(path).astype(int) - red()).max() < 8
    with Image.open(path) as opened:
        opened.load()
        assert opened.info["jfif_version"] == (1, 1)
        assert opened.info["comment"].startswith(b"drawn by resnext-detection")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [name]


def test_an_image_that_is_longer_than_jpegs_are(tmp_path: Path) -> None:
    image = np.zeros((20, 80_000, 3), dtype=np.uint8)
    image[:, 40_000:] = (0, 0, 250)
    save_drawing(tmp_path / "a.jpg", image)
    read = cv2.imread(str(tmp_path / "a.jpg"))
    assert read.shape == (16, 65_500, 3)
    assert read[8, 1000].max() < 10
    assert read[8, 64_000, 0] > 240


def test_a_drawing_is_replaced_by_the_next(tmp_path: Path) -> None:
    save_drawing(tmp_path / "a.jpg", red())
    save_drawing(tmp_path / "a.jpg", red(10, 10))
    assert read_image(tmp_path / "a.jpg").shape == (10, 10, 3)


@pytest.mark.parametrize(
    "what",
    ["another image", "one byte changed", "cut", "extended", "edited", "empty", "a link", "a broken link", "a pipe"],
)
def test_nothing_else_is_replaced(what: str, tmp_path: Path) -> None:
    path, drawn = tmp_path / "a.jpg", tmp_path / "drawn.jpg"
    save_drawing(drawn, red())
    content = drawn.read_bytes()
    if what == "another image":
        cv2.imwrite(str(path), red())
    elif what == "one byte changed":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif what == "cut":
        path.write_bytes(content[:-1])
    elif what == "extended":
        path.write_bytes(content + b"x")
    elif what == "edited":
        with Image.open(drawn) as opened:
            opened.rotate(90).save(path, comment=opened.info["comment"])
    elif what == "empty":
        path.touch()
    elif what == "a pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no pipes here")
        os.mkfifo(path)
    else:
        path.symlink_to(drawn if what == "a link" else tmp_path / "absent")
    before = os.lstat(path)
    for refuse in (require_replaceable, lambda path: save_drawing(path, red())):
        with pytest.raises(UserError, match=r"a\.jpg: exists already, and has no mark of this tool or was .*--output"):
            refuse(path)
    assert os.lstat(path) == before


def test_every_single_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    save_drawing(path, red())
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x20]) + content[position + 1 :])
        with pytest.raises(UserError):
            require_replaceable(path)
