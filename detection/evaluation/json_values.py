"""What JSON held → numbers: single values judged by themselves, whole columns turned into arrays."""

from __future__ import annotations

import sys
from itertools import chain
from typing import Any

import numpy as np

LARGEST_ID = 2**53  # beyond it float64 no longer holds every whole number


def is_finite_number(value: Any) -> bool:
    """Whether `value` is an int or a float that float64 can hold, and neither NaN nor infinite. A bool is no number."""
    largest = sys.float_info.max  # JSON knows whole numbers of any length
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def is_box(box: Any) -> bool:
    """Whether `box` is a list of four finite numbers."""
    return isinstance(box, (list, tuple)) and len(box) == 4 and all(map(is_finite_number, box))


def plain_numbers(values: list[Any]) -> np.ndarray:
    """A column of ints and floats, float64 (n,).

    Raises:
        ValueError, OverflowError: anything else is among them, or what float64 does not hold.
    """
    if not set(map(type, values)) <= {int, float}:
        raise ValueError
    numbers = np.array(values, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError
    return numbers


def plain_boxes(values: list[Any]) -> np.ndarray:
    """A column of lists of four ints and floats, float64 (n, 4).

    Raises:
        ValueError, OverflowError: see `plain_numbers`.
    """
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        raise ValueError
    return plain_numbers(list(chain.from_iterable(values))).reshape(-1, 4)


def short(value: Any) -> str:
    """`value` as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
