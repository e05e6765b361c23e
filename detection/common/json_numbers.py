"""Numbers at known places of a JSON text → float64, parsed by array operations. The result equals `json`'s to the bit.

Shapes: n numbers. Positions are in bytes from the start of the text. A word is eight bytes as one uint64, the first in
its lowest bits.
"""

from __future__ import annotations

import numpy as np

LONGEST = 32  # characters of a number
BEFORE = 24  # bytes before a number's end that are read with it: three words
_ONES = np.uint64(0x0101010101010101)
_HIGHEST_BITS = _ONES << np.uint64(7)
_ALL = np.uint64(2**64 - 1)
_ZEROS, _POINTS = _ONES * np.uint64(ord("0")), _ONES * np.uint64(ord("."))
_POWERS = np.array([float(10**exponent) for exponent in range(19)])  # exact
_SPLITTER = 2.0**27 + 1
_IS_IN_NUMBER = np.array([chr(character) in "\0" + "0123456789.e-" for character in range(256)])


class IrregularError(Exception):
    """The text is not of the form that is read here."""


def words_around(text: np.ndarray, ends: np.ndarray, after: int) -> np.ndarray:
    """The `BEFORE` bytes before each end and at least `after` behind it, as words (n, 3 + …).

    text: uint8, which has that many bytes before each end, and seven more than `after` behind it. numpy takes no longer
    for all these bytes than for one word.
    """
    size = BEFORE + (after + 7) // 8 * 8
    pieces = np.ndarray(len(text) - size + 1, f"V{size}", buffer=text, strides=(1,))
    return pieces[ends - BEFORE].view("<u8").reshape(len(ends), -1)


def require(words: np.ndarray, expected: bytes) -> None:
    """That each of the words (n, …) begins with the same text. Raises IrregularError."""
    for i in range(0, len(expected), 8):
        part = expected[i : i + 8]
        own = words[:, i // 8]
        if len(part) < 8:
            own = own & np.uint64((1 << 8 * len(part)) - 1)
        if (own != np.uint64(int.from_bytes(part, "little"))).any():
            raise IrregularError


def parsed(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The numbers from each start to its end, float64 (n,).

    Args:
        text: uint8, with `LONGEST` bytes or more behind each start.
        starts, ends: int64 (n,), 1 to `LONGEST` bytes apart.
        words: (n, 3), those before the ends.

    Raises:
        IrregularError: one is no number, as JSON writes it, or none that float64 can hold.
    """
    values, is_read = _short_numbers(words[:, 2].copy(), ends - starts)
    if not is_read.all():
        rest = np.flatnonzero(~is_read)
        values[rest] = _other_numbers(text, starts[rest], ends[rest], words[rest])
    return values


def are_digits(values: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether numbers, float64 (n,), read from texts of these lengths, are written in digits alone, at most 15 each."""
    digits = np.maximum(np.searchsorted(_POWERS, values, side="right"), 1)
    return bool((lengths == digits).all() and (lengths <= 15).all())


def _other_numbers(text: np.ndarray, starts: np.ndarray, ends: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The same of numbers that are long, or have a sign or an exponent."""
    negative = text[starts] == ord("-")
    starts = starts + negative
    lengths = ends - starts
    first, second = text[starts], text[starts + 1]
    starts_with_0 = first == ord("0")
    leading_zero = starts_with_0 & (lengths > 1) & (second >= ord("0")) & (second <= ord("9"))
    if leading_zero.any() or not lengths.all():
        raise IrregularError  # JSON has no 01
    values, is_read = np.zeros(len(starts)), np.zeros(len(starts), dtype=bool)
    for where, parse in ((negative, _short_numbers), (starts_with_0 & (second == ord(".")), _fractions)):
        rest = np.flatnonzero(where & ~is_read)
        if rest.size:
            own = words[rest]
            values[rest], is_read[rest] = parse(own[:, 2] if parse is _short_numbers else own, lengths[rest])
    rest = np.flatnonzero(~is_read)
    if rest.size:
        values[rest] = _any_numbers(text, starts[rest], lengths[rest])
    return np.where(negative, -values, values)


def _short_numbers(words: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that end with a word, without sign → float64 (n,), and whether each was read, bool (n,): it is if it has
    at most eight characters, digits and perhaps a point between them.

    Its digits and the power of ten are numbers that float64 holds, so that the quotient is rounded once, as it should.
    """
    is_read = lengths <= 8
    unused = (64 - 8 * np.minimum(lengths, 8)).view(np.uint64)  # bits, the lowest ones
    start = words >> unused
    own = _ALL << unused
    is_read &= start & np.uint64(0xF0FF) != np.uint64(0x3030)  # no zero before another digit
    # The highest bit of the bytes that are a point; above the first such byte it may be set wrongly.
    differences = (words ^ _POINTS) | ~own
    points = (differences - _ONES) & ~differences & _HIGHEST_BITS
    if not points.any():
        return _value_of_digits(words & own).astype(np.float64), is_read & _is_digits(words & own | _ZEROS & ~own)
    point = points & (~points + np.uint64(1))
    has_point = point != 0
    before, after = (point >> np.uint64(7)) - np.uint64(1), ~((point << np.uint64(1)) - np.uint64(1))
    shift = has_point.astype(np.uint64) << np.uint64(3)
    words = words & after | (words & before) << shift  # without the point
    own = own << shift
    words = words & own | _ZEROS & ~own
    decimals = ((after & _ONES) * _ONES >> np.uint64(56)).astype(np.int64)
    is_read &= _is_digits(words) & (~has_point | (decimals > 0) & (decimals < lengths - 1))
    return _value_of_digits(words).astype(np.float64) / _POWERS[decimals], is_read


def _fractions(words: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of numbers 0.… that end with three words (n, 3), read if they have at most 18 decimals, which are a
    whole number of at most 60 bits.

    Its quotient with the power of ten, rounded, is corrected by the rest of the division, which is computed exactly by
    the product of Dekker (Numerische Mathematik 18, 1971).
    """
    decimals = lengths - 2
    is_read = decimals <= 18
    decimals = np.where(is_read, decimals, 0)
    whole = np.zeros(len(words), dtype=np.uint64)
    for i, later in enumerate((16, 8, 0)):  # decimals after those of the word
        own = _ALL << (64 - 8 * np.clip(decimals - later, 0, 8)).view(np.uint64)
        part = words[:, i] & own | _ZEROS & ~own
        is_read &= _is_digits(part)
        whole = whole * np.uint64(10**8) + _value_of_digits(part)
    power = _POWERS[decimals]
    rounded = whole.astype(np.float64)
    quotient = rounded / power
    high, power_high = (number * _SPLITTER - (number * _SPLITTER - number) for number in (quotient, power))
    low, power_low = quotient - high, power - power_high
    product = quotient * power
    missing = product - high * power_high - low * power_high - high * power_low - low * power_low
    lost = (whole.astype(np.int64) - rounded.astype(np.int64)).astype(np.float64)
    correction = ((rounded - product) + missing + lost) / power
    values = quotient + correction
    # Where the exact value is next to the middle of two numbers, the correction's own rounding could decide.
    is_read &= np.abs(np.abs((quotient - values) + correction) / np.spacing(values) - 0.5) > 1e-6
    return values, is_read


def _is_digits(words: np.ndarray) -> np.ndarray:
    sums = words + _ONES * np.uint64(6)
    is_digits: np.ndarray = words & sums & _ONES * np.uint64(0xF0) == _ZEROS
    return is_digits


def _value_of_digits(words: np.ndarray) -> np.ndarray:
    """The number that eight digits are: digits to pairs, these to fours, these to one. Each product's higher half is a
    digit, pair or four times its place plus the next one. Bytes of 0 count as digits."""
    pairs = (words & _ONES * np.uint64(15)) * np.uint64(10 * 2**8 + 1) >> np.uint64(8)
    fours = (pairs & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(100 * 2**16 + 1) >> np.uint64(16)
    return (fours & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(10_000 * 2**32 + 1) >> np.uint64(32)


def _any_numbers(text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The same of numbers of any form, without sign, by Python's `float`."""
    for place in (starts, starts + lengths - 1):
        if ((text[place] < ord("0")) | (text[place] > ord("9"))).any():
            raise IrregularError  # JSON has neither .5 nor 1.
    offsets = np.arange(int(lengths.max()))
    characters = np.where(offsets < lengths[:, None], text[starts[:, None] + offsets], 0).astype(np.uint8)
    if not _IS_IN_NUMBER[characters].all():
        raise IrregularError
    if ((characters[:, :-1] == ord(".")) & (characters[:, 1:] == ord("e"))).any():
        raise IrregularError  # JSON has no 1.e5
    try:
        numbers = characters.view(f"S{len(offsets)}")[:, 0].astype(np.float64)
    except ValueError:
        raise IrregularError from None
    if not np.isfinite(numbers).all():
        raise IrregularError  # infinity is left to those who name its place
    return numbers
