"""(seed, epoch, index) → numbers that look random, with no state in between.

Every draw is a function of whole numbers alone, so it is the same whatever the number of workers or ranks, after a
resume, and with any version of NumPy. The mixing step is SplitMix64's (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014).
"""

from __future__ import annotations

import numpy as np

_INCREMENT = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def hash63(*numbers: int) -> int:
    """A whole number in [0, 2**63), determined by `numbers` and their order."""
    state = 0
    for number in numbers:
        state = _mix((state ^ (number & _MASK)) + _INCREMENT)
    return state >> 1


def uniform(*numbers: int) -> float:
    """A number in [0, 1), determined by `numbers` and their order."""
    return (hash63(*numbers) >> 10) * 2.0**-53


def permutation(count: int, *numbers: int) -> np.ndarray:
    """A permutation of 0 … count − 1 (int64), determined by `numbers` and their order."""
    state = np.uint64(hash63(*numbers))
    with np.errstate(over="ignore"):
        keys = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_INCREMENT)) ^ state
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(31)
    return np.argsort(keys, kind="stable")


def _mix(number: int) -> int:
    number &= _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)
