"""A JSON list of objects that are alike → their numbers as an array, parsed by array operations.

`[{"image_id": 1, "bbox": [3.5, 4, 10, 20.25], "score": 0.5}, …]`, where all objects have the same keys in the same
order with the same white space, and hold nothing but numbers and lists of numbers: files of detections, as programs
write them. The result equals that of `json` to the bit. For anything else the answer is None, and the caller reads the
file by `detection.common.json_stream`, which accepts all of JSON and names faults.

Shapes: n objects in a block of the file, k numbers in each. Positions are in bytes from the start of the block. A word
is eight bytes as one uint64, the first in its lowest bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

_WINDOW = 1 << 21  # bytes: the arrays of one block stay in the processor's cache
_LONGEST = 32  # characters of a number, a whole number of words
_PADDING = b" " * _LONGEST
_RUN = re.compile(rb"[0-9.e-]+")
_IS_IN_RUN = bytes(_RUN.fullmatch(bytes([character])) is not None for character in range(256))
_STRING = re.compile(rb'"[^"]*"')
_ONES = np.uint64(0x0101010101010101)
_HIGHEST_BITS = _ONES << np.uint64(7)
_FIRST = np.array([(1 << 8 * count) - 1 for count in range(9)], dtype=np.uint64)  # the first bytes of a word
_POWERS = np.array([float(10**exponent) for exponent in range(19)])  # exact
_SPLITTER = 2.0**27 + 1


def read_number_rows(path: Path, fields: Mapping[str, int | None]) -> np.ndarray | None:
    """The numbers of all objects of the list in `path`, float64, a row for each; None if it cannot be read in this way.

    fields: the keys whose numbers are wanted, in the order of the columns, each with the length of its list, or None
    for a number. Other keys are left out.
    """
    try:
        parts = [_rows(block, fields) for block in _blocks(path)]
    except (OSError, _IrregularError):
        return None
    return np.concatenate(parts)


class _IrregularError(Exception):
    """The text is no list of objects that are alike."""


def _blocks(path: Path) -> Iterator[bytes]:
    """The list's text in blocks of whole objects, `{…}, … {…}`; at least one."""
    if not path.is_file():
        raise _IrregularError
    rest, before = b"", b"["
    with path.open("rb") as file:
        while data := file.read(_WINDOW):
            rest = (rest + data).lstrip()
            end = rest.rfind(b"}") + 1
            if not end:
                if len(rest) > _WINDOW:
                    raise _IrregularError
                continue
            if not rest.startswith(before):
                raise _IrregularError
            yield rest[1:end].lstrip()
            rest, before = rest[end:], b","
    if rest.strip() != b"]" or before == b"[":
        raise _IrregularError


def _rows(text: bytes, fields: Mapping[str, int | None]) -> np.ndarray:
    """The numbers of a block's objects, float64 (n, columns).

    The first object is the model of all. A run is a piece of the text of the characters that numbers have: a number, or
    letters e of a key, which stand in every object.
    """
    model = text[: text.find(b"}") + 1]
    runs, numbers, wanted = _model(model, fields)
    opening = text.find(b"{", len(model))
    between = text[len(model) : opening] if opening > 0 else b","
    marks = np.frombuffer(text.translate(_IS_IN_RUN), dtype=np.uint8)
    edges = np.flatnonzero(marks[1:] != marks[:-1]) + (1 + _LONGEST)
    if between.strip() != b"," or _RUN.search(between) or len(edges) % (2 * len(runs)):
        raise _IrregularError
    starts, ends = edges.reshape(-1, len(runs), 2)[:, numbers].transpose(2, 1, 0).copy()
    padded = np.frombuffer(_PADDING + text + _PADDING, dtype=np.uint8)
    words = np.ndarray(len(padded) - 7, dtype="<u8", buffer=padded, strides=(1,))  # that at each position
    places = [runs[number] for number in numbers]
    for i, (before, after) in enumerate(pairwise(places)):
        _require(words, ends[i], starts[i + 1], model[before.end() : after.start()])
    tail = model[places[-1].end() :]
    _require(words, ends[-1, :-1], starts[0, 1:], tail + between + model[: places[0].start()])
    if int(ends[-1, -1]) + len(tail) != _LONGEST + len(text) or not text.endswith(tail):
        raise _IrregularError
    return np.stack([_parsed(words, starts[column], ends[column]) for column in wanted], axis=1)


def _model(text: bytes, fields: Mapping[str, int | None]) -> tuple[list[re.Match[bytes]], list[int], list[int]]:
    """The runs of an object; which of them are its numbers; which of these are wanted, in the order of `fields`."""
    try:
        pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise _IrregularError from None
    if b"\\" in text:  # perhaps an escaped quote, which `_STRING` does not know
        raise _IrregularError
    found: dict[str, list[int]] = {}
    count = 0
    for key, value in pairs:
        values = value if isinstance(value, list) else [value]
        length = len(value) if isinstance(value, list) else None
        if key in found or not {*map(type, values)} <= {int, float} or fields.get(key, length) != length:
            raise _IrregularError
        found[key] = [*range(count, count + len(values))]
        count += len(values)
    if not fields.keys() <= found.keys():
        raise _IrregularError
    keys = [key.span() for key in _STRING.finditer(text)]
    runs = [*_RUN.finditer(text)]
    numbers = [i for i, run in enumerate(runs) if not any(begin < run.start() < end for begin, end in keys)]
    if len(numbers) != count:
        raise _IrregularError
    return runs, numbers, [place for key in fields for place in found[key]]


def _require(words: np.ndarray, starts: np.ndarray, ends: np.ndarray, text: bytes) -> None:
    """That the same `text` stands from each start to its end; positions int64 (n,)."""
    if (ends - starts != len(text)).any():
        raise _IrregularError
    for offset in range(0, len(text), 8):
        part = text[offset : offset + 8]
        if (words[starts + offset] & _FIRST[len(part)] != int.from_bytes(part, "little")).any():
            raise _IrregularError


def _parsed(words: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers from each start to its end, float64 (n,)."""
    first = words[starts]
    negative = first & np.uint64(0xFF) == ord("-")
    if negative.any():
        starts = starts + negative
        first = words[starts]
    lengths = ends - starts
    second = first >> np.uint64(8) & np.uint64(0xFF)
    starts_with_0 = first & np.uint64(0xFF) == ord("0")
    leading_zero = starts_with_0 & (lengths > 1) & (second >= ord("0")) & (second <= ord("9"))
    if not ((lengths > 0) & (lengths <= _LONGEST) & ~leading_zero).all():
        raise _IrregularError  # JSON has no 01
    values, is_read = _short_numbers(words[ends - 8], lengths)
    for where, parse in ((starts_with_0 & (second == ord(".")), _fractions), (np.True_, _any_numbers)):
        rest = np.flatnonzero(~is_read & where)
        if rest.size:
            values[rest], is_read[rest] = parse(words, starts[rest], lengths[rest])
    return np.where(negative, -values, values)


def _short_numbers(words: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that end with a word, without sign → float64 (n,), and whether each was read, bool (n,): it is if it has
    at most eight characters, digits and perhaps a point between them.

    Its digits and the power of ten are numbers that float64 holds, so that the quotient is rounded once, as it should.
    """
    words = _last(words, lengths)
    # The highest bit of the bytes that are a point; above the first such byte it may be set wrongly.
    differences = words ^ _ONES * np.uint64(ord("."))
    points = (differences - _ONES) & ~differences & _HIGHEST_BITS
    point = points & (~points + np.uint64(1))
    has_point = point != 0
    before, after = (point >> np.uint64(7)) - np.uint64(1), ~((point << np.uint64(1)) - np.uint64(1))
    words = np.where(has_point, words & after | (words & before) << np.uint64(8) | np.uint64(ord("0")), words)
    decimals = ((after & _ONES) * _ONES >> np.uint64(56)).astype(np.int64)
    is_read = _is_digits(words) & (lengths <= 8) & (~has_point | (decimals > 0) & (decimals < lengths - 1))
    return _value_of_digits(words).astype(np.float64) / _POWERS[decimals], is_read


def _fractions(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of numbers 0.…, read if they have at most 18 decimals, which are a whole number of at most 60 bits.

    Its quotient with the power of ten, rounded, is corrected by the rest of the division, which is computed exactly by
    the product of Dekker (Numerische Mathematik 18, 1971).
    """
    decimals = lengths - 2
    is_read = decimals <= 18
    decimals = np.where(is_read, decimals, 0)
    whole = np.zeros(len(starts), dtype=np.uint64)
    for later in (16, 8, 0):
        part = _last(words[starts + lengths - later - 8], np.clip(decimals - later, 0, 8))
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


def _last(words: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The words with 0 for all but their last `counts` characters, at most 8."""
    unused = _FIRST[8 - np.minimum(counts, 8)]
    return words & ~unused | _ONES * np.uint64(ord("0")) & unused


def _is_digits(words: np.ndarray) -> np.ndarray:
    sums = words + _ONES * np.uint64(6)
    is_digits: np.ndarray = words & sums & _ONES * np.uint64(0xF0) == _ONES * np.uint64(0x30)
    return is_digits


def _value_of_digits(words: np.ndarray) -> np.ndarray:
    """The number that eight digits are: digits to pairs, these to fours, these to one."""
    digits = words & _ONES * np.uint64(15)
    digits = digits * np.uint64(10) + (digits >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    digits = digits * np.uint64(100) + (digits >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return digits * np.uint64(10_000) + (digits >> np.uint64(32)) & np.uint64(0xFFFFFFFF)


def _any_numbers(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of numbers of any form, all of which are read, by Python's `float`."""
    for place in (starts, starts + lengths - 1):
        character = words[place] & np.uint64(0xFF)
        if ((character < ord("0")) | (character > ord("9"))).any():
            raise _IrregularError  # JSON has neither .5 nor 1.
    count = int(lengths.max() + 7) // 8
    parts = [words[starts + 8 * i] & _FIRST[np.clip(lengths - 8 * i, 0, 8)] for i in range(count)]
    texts = np.stack(parts, axis=1).astype("<u8")
    characters = texts.view(np.uint8)
    try:
        numbers = texts.view(f"S{8 * count}")[:, 0].astype(np.float64)
    except ValueError:
        raise _IrregularError from None
    if ((characters[:, :-1] == ord(".")) & (characters[:, 1:] == ord("e"))).any() or not np.isfinite(numbers).all():
        raise _IrregularError  # JSON has no 1.e5, and infinity is left to those who name its place
    return numbers, np.ones(len(starts), dtype=bool)
