"""The image of a curve: its line lies where the values are."""

from __future__ import annotations

import numpy as np

from detection.report.curve_image import _LINE, draw_curve


def rows_of_line(image: np.ndarray, column: int) -> np.ndarray:
    return np.flatnonzero(np.abs(image[:, column].astype(int) - _LINE).max(axis=1) < 30)


def test_the_line_follows_the_values() -> None:
    rising = draw_curve([(0, 0.0), (2000, 1.0)], "recall", "proposals", 2000)
    assert rising.dtype == np.uint8
    heights = [rows_of_line(rising, column).mean() for column in (100, 200, 300, 400)]
    assert heights == sorted(heights, reverse=True)
    steps = np.diff(heights)
    assert np.abs(steps - steps.mean()).max() < 2
    flat = draw_curve([(0, 0.5), (1, 0.5)], "precision", "recall", 1.0)
    assert {int(rows_of_line(flat, column).mean()) for column in (100, 300)} == {32 + (360 - 32 - 40) // 2}
