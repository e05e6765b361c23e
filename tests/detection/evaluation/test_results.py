"""Detections as an array: checked, and rounded to what a file will hold."""

from __future__ import annotations

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.evaluation.results import checked, rounded


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(3, 6\)"):
        rounded(np.ones((3, 6)))


def test_rows_that_mean_nothing_are_refused_by_image() -> None:
    row = [3, 1, 2, 3, 4, 0.5, 1]
    for column, value, message in (
        (0, 2.0**53 + 2, "no whole number"),
        (6, 1.5, "no whole number"),
        (5, np.nan, "score that is not finite"),
        (4, -1, "negative width or height"),
        (1, np.inf, "box that is not finite"),
    ):
        rows = np.array([row, row], dtype=np.float64)
        rows[1, column] = value
        with pytest.raises(UserError, match=f"mine: .*{message} in row 1 .*, 1 such rows"):
            checked(rows, "mine")
    assert checked(np.zeros((0, 3))).shape == (0, 7)


def test_rounded_sorts_by_image_and_keeps_the_order_within_one() -> None:
    rows = np.array([[9, 1.23456, 0, 1, 1, 0.1, 1], [3, 0, 0, 1, 1, 0.2, 1], [9, 0, 0, 1, 1, 0.3, 1]])
    assert rounded(rows)[:, [0, 1, 5]].tolist() == [[3, 0, 0.2], [9, 1.235, 0.1], [9, 0, 0.3]]
