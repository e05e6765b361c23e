"""Small videos for tests, captures that break, and a detector of coloured squares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detection.base_detector import BaseDetector
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))  # of the classes, RGB


def frame(boxes: Iterable[tuple[int, int, int, int, int]], height: int = 120, width: int = 160) -> np.ndarray:
    """A grey frame with filled boxes (x0, y0, x1, y1, label)."""
    image = np.full((height, width, 3), 60, dtype=np.uint8)
    for x0, y0, x1, y1, label in boxes:
        image[y0:y1, x0:x1] = COLORS[label - 1]
    return image


def write_video(path: Path, frames: Iterable[np.ndarray], rate: float = 10.0) -> Path:
    """A file of frames RGB: MJPG in an AVI, else MPEG-4."""
    writer: Any = None
    for image in frames:
        if writer is None:
            code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
            writer = cv2.VideoWriter(str(path), code, rate, (image.shape[1], image.shape[0]))
            assert writer.isOpened()
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return path


def read_frames(path: Path) -> tuple[list[np.ndarray], float]:
    """The frames RGB of a file, and its frame rate."""
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    frames = []
    while (outcome := capture.read())[0]:
        frames.append(outcome[1][:, :, ::-1].copy())
    return frames, rate


class SquareDetector(BaseDetector):
    """Finds the boxes of `frame`. It notes the number of images of each batch."""

    categories = Categories((3, 7, 9), ("red", "green", "blue"))

    def __init__(self) -> None:
        self.batches: list[int] = []

    def _detect(self, images: Iterable[np.ndarray], batch_size: int) -> Iterator[ImageDetections]:
        waiting: list[np.ndarray] = []
        for image in images:
            waiting.append(image)
            if len(waiting) == batch_size:
                yield from self._batch(waiting)
                waiting = []
        if waiting:
            yield from self._batch(waiting)

    def _batch(self, images: list[np.ndarray]) -> Iterator[ImageDetections]:
        self.batches.append(len(images))
        for image in images:
            boxes, labels = [], []
            for label in (1, 2, 3):
                others = np.delete(image.astype(int), label - 1, axis=2).max(axis=2)
                mask = (image[:, :, label - 1].astype(int) - others > 100).astype(np.uint8)
                for x, y, width, height, area in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
                    if area > 20:
                        boxes.append([x, y, x + width, y + height])
                        labels.append(label)
            yield ImageDetections.of_labels(
                np.array(boxes, dtype=np.float32).reshape(-1, 4),
                np.linspace(0.95, 0.9, len(boxes), dtype=np.float32),
                np.array(labels, dtype=np.int64),
                self.categories,
            )


class BreakingCaptures:
    """Opens captures of numbered frames in place of a stream's: one for each entry of `lengths`, which breaks after so
    many frames; None cannot be opened."""

    def __init__(self, *lengths: int | None) -> None:
        self.lengths = list(lengths)
        self.opened = 0

    def __call__(self, source: str | int) -> _Capture:
        length = self.lengths[self.opened] if self.opened < len(self.lengths) else None
        self.opened += 1
        return _Capture(length)


class _Capture:
    def __init__(self, length: int | None) -> None:
        self._is_open, self._left = length is not None, length or 0

    def isOpened(self) -> bool:
        return self._is_open

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self._left == 0:
            return False, None
        self._left -= 1
        return True, np.ascontiguousarray(frame([(10, 10, 40, 40, 1)])[:, :, ::-1])

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FPS: 25.0}.get(name, 0.0)

    def release(self) -> None:
        self._is_open = False
