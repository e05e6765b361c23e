"""A column of JSON values → an array if every value is a number, by fast array operations; else None.

For None, the caller converts the values one by one and decides what each means, or refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

LARGEST_ID = 2**53  # float64 holds every whole number up to this one


def number_column(values: Sequence[Any]) -> np.ndarray | None:
    """Ints and floats as float64 (n,); None if anything else is among them (true is no number), or an int that float64
    cannot hold.

    >>> number_column([1, 2.5])
    array([1. , 2.5])
    >>> number_column([1, "2"]) is None
    True
    """
    if not set(map(type, values)) <= {int, float}:
        return None
    try:
        return np.fromiter(values, dtype=np.float64, count=len(values))
    except OverflowError:
        return None


def box_column(values: Sequence[Any]) -> np.ndarray | None:
    """Lists of four ints and floats as float64 (n, 4); None if anything else is among them."""
    if not (set(map(type, values)) <= {list} and set(map(len, values)) <= {4}):
        return None
    numbers = number_column(list(chain.from_iterable(values)))
    return None if numbers is None else numbers.reshape(-1, 4)
