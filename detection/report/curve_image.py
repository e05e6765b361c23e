"""Points of a curve → an image of it, for loggers that take images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

_HEIGHT, _WIDTH = 360, 480
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 32, 16, 40  # margins
_INK, _GRID, _LINE = (40, 40, 40), (220, 220, 220), (0, 110, 255)


def draw_curve(points: Sequence[tuple[float, float]], title: str, below: str, most: float) -> np.ndarray:
    """An image uint8 (H, W, 3) RGB of a curve whose values y lie in 0–1.

    Args:
        points: (x, y) with x in 0 … `most`, ascending.
        title, below: ASCII text above the curve, and of the x axis.
    """
    image = np.full((_HEIGHT, _WIDTH, 3), 255, dtype=np.uint8)
    inner = np.array([_WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM])

    def place(x: float, y: float) -> tuple[int, int]:
        return round(_LEFT + x / most * inner[0]), round(_TOP + (1 - y) * inner[1])

    def write(text: str, corner: tuple[int, int]) -> None:
        cv2.putText(image, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)

    for step in range(6):
        share = step / 5
        cv2.line(image, place(0, share), place(most, share), _GRID, 1)
        cv2.line(image, place(share * most, 0), place(share * most, 1), _GRID, 1)
        write(f"{share:.1f}", (14, place(0, share)[1] + 4))
        write(f"{share * most:.4g}", (place(share * most, 0)[0] - 10, _HEIGHT - _BOTTOM + 16))
    write(title, (_LEFT, 20))
    write(below, (_LEFT, _HEIGHT - 8))
    line = np.array([place(x, y) for x, y in points], dtype=np.int32)
    cv2.polylines(image, [line], isClosed=False, color=_LINE, thickness=2, lineType=cv2.LINE_AA)
    return image
