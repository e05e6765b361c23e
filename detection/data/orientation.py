"""Pixels and boxes of an image as stored → those of the upright image, by the orientation that EXIF notes, 1 to 8.

Exif 2.3, table 6: the tag gives the sides of row 0 and column 0. 1 leaves the image as it is; from 5 on, the sides are
swapped.
"""

from __future__ import annotations

import numpy as np

_INVERSE = {6: 8, 8: 6}  # every other orientation is its own inverse


def is_as_stored(size: tuple[int, int], upright: tuple[int, int], orientation: int) -> bool:
    """Whether annotations that state `size` were made on the pixels as stored: it is not the upright image's size, but
    that with its sides swapped back. Both are (height, width)."""
    return orientation >= 5 and size != upright and size == upright[::-1]


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels (H, W, …) → the upright image, as a view."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def turn_back(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright image (H, W, …) → the pixels as stored, as a view."""
    return turn(pixels, _INVERSE.get(orientation, orientation))


def turn_boxes(boxes: np.ndarray, orientation: int, upright: tuple[int, int]) -> np.ndarray:
    """Boxes (T, 4) as x, y, width, height on the stored pixels → the same on the upright image.

    upright: (height, width) of the upright image.

    >>> turn_boxes(np.array([[10, 5, 20, 10]]), 6, (80, 40)).tolist()
    [[25, 10, 10, 20]]
    """
    x, y, width, height = boxes.T
    if orientation >= 5:
        x, y, width, height = y, x, height, width
    if orientation in (3, 4, 7, 8):
        y = upright[0] - y - height
    if orientation in (2, 3, 6, 7):
        x = upright[1] - x - width
    return np.stack([x, y, width, height], axis=1)
