"""A TIFF that is too large to be decoded whole → its detections, window by window, and a small drawing of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from backbones.common.progress import with_progress
from backbones.common.text import printable
from detection.base_detector import BaseDetector
from detection.data.tiff_windows import TiffWindows
from detection.detector_interface import ImageDetections
from detection.tiling import merge_tiles, tile_windows

OVERVIEW_SIDE = 4096  # pixels of the longer side of what is drawn on


def detect_in_tiff(
    detector: BaseDetector, path: Path, tile: int, overlap: float
) -> tuple[ImageDetections, np.ndarray, tuple[int, int]]:
    """The detections in a TIFF in its pixels, the image scaled down to `OVERVIEW_SIDE`, and its (height, width).

    One tile is in memory at a time; of a TIFF with strips, the rows of one tile. Raises the errors of `TiffWindows`.
    """
    with TiffWindows(path) as image:
        height, width = image.shape[:2]
        windows = tile_windows(height, width, tile, overlap)
        factor = min(1.0, OVERVIEW_SIDE / max(height, width))
        overview = np.zeros((max(1, round(height * factor)), max(1, round(width * factor)), 3), dtype=np.uint8)
        found = []
        for x0, y0, x1, y1 in with_progress(
            windows.tolist(), len(windows), f"detecting in {printable(path.name)}", unit="tiles"
        ):
            pixels = image[y0:y1, x0:x1]
            found.append(detector(pixels))
            left, top, right, bottom = (round(side * factor) for side in (x0, y0, x1, y1))
            if left < right and top < bottom:
                overview[top:bottom, left:right] = cv2.resize(
                    pixels, (right - left, bottom - top), interpolation=cv2.INTER_AREA
                )
    return merge_tiles(found, windows, height, width), overview, (height, width)
