"""A number of things → the positions of some of them, spread evenly."""

from __future__ import annotations

import numpy as np


def evenly_spread(count: int, most: int | None) -> np.ndarray:
    """At most `most` of the positions 0 … count − 1, ascending, the first and the last among them; None or 0: all.

    >>> evenly_spread(10, 3), evenly_spread(3, 100)
    (array([0, 4, 9]), array([0, 1, 2]))
    """
    return np.unique(np.linspace(0, count - 1, min(most or count, count)).astype(int))
