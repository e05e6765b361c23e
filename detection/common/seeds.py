"""Whole numbers (seed, epoch, index) → pseudo-random numbers, without a state.

Every draw is a function of whole numbers only, so it does not depend on the number of workers or ranks, on a resume, or
on NumPy's version. The mixing step is SplitMix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""2⁶⁴ / golden ratio, as a signed number: SplitMix64's increment."""

_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64)
_MASK = (1 << 64) - 1


def mix64(bits: Any) -> Any:
    """SplitMix64's finaliser: a permutation of the 64-bit numbers in which each bit of the input changes half of the
    output bits.

    Args:
        bits: an int64 array of NumPy, an int64 tensor of torch, or a whole number, of which the lower 64 bits are used.

    Returns:
        The same type; of a whole number's result, only the lower 64 bits are defined.
    """
    bits = (bits ^ shift_right(bits, 30)) * _FIRST
    bits = (bits ^ shift_right(bits, 27)) * _SECOND
    return bits ^ shift_right(bits, 31)


def shift_right(bits: Any, places: int) -> Any:
    """The lower 64 bits shifted, filled with zeros; int64's own shift fills with the sign bit."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def hash63(*numbers: int) -> int:
    """A whole number in [0, 2**63), determined by `numbers` and their order."""
    state = 0
    for number in numbers:
        state = mix64((state ^ number) + GOLDEN) & _MASK
    return state >> 1


def uniform(*numbers: int) -> float:
    """A number in [0, 1), determined by `numbers` and their order."""
    return (hash63(*numbers) >> 10) * 2.0**-53


def permutation(count: int, *numbers: int) -> np.ndarray:
    """A permutation of 0 … count − 1 (int64), determined by `numbers` and their order."""
    keys = mix64((np.arange(1, count + 1, dtype=np.int64) * GOLDEN) ^ hash63(*numbers))
    return np.argsort(keys.view(np.uint64), kind="stable")
