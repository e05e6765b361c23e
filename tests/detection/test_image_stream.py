"""Images decoded ahead in a thread: in order, few at a time, and with the errors at their place."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.image_stream import images_ahead
from tests.detection.videos import frame, write_video


def numbered(number: int) -> np.ndarray:
    return np.full((4, 5, 3), number, dtype=np.uint8)


def test_an_iterable_without_end_is_read_a_few_images_ahead() -> None:
    read: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            read.append(len(read))
            yield numbered(read[-1] % 256)

    stream = images_ahead(endless(), ahead=3)
    assert [int(next(stream)[0, 0, 0]) for _ in range(20)] == list(range(20))
    assert 20 <= len(read) <= 24
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images ahead")]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        cv2.imwrite(str(tmp_path / f"{number}.png"), numbered(number))
    assert [int(image[0, 0, 0]) for image in images_ahead(tmp_path)] == [0, 1, 2]


def test_an_error_comes_after_the_images_before_it(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    stream = images_ahead([numbered(1), tmp_path / "torn.png", numbered(2)])
    assert next(stream)[0, 0, 0] == 1
    with pytest.raises(UserError, match=r"torn\.png"):
        next(stream)


def test_a_video_is_read_ahead_and_closed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", [frame([(5 * n, 10, 5 * n + 30, 40, 1)]) for n in range(20)])
    assert len(list(images_ahead(path))) == 20
    stream = images_ahead(str(path))
    assert next(stream).shape == (120, 160, 3)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("images ahead")]


def test_one_image_is_no_stream() -> None:
    with pytest.raises(UserError, match="one image"):
        images_ahead(numbered(0))
