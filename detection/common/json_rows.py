"""A JSON list of objects that are alike → their numbers as an array, parsed by array operations.

`[{"image_id": 1, "bbox": [3.5, 4, 10, 20.25], "score": 0.5}, …]`, where all objects have the same keys in the same
order with the same white space, and hold nothing but numbers and lists of numbers: files of detections, as programs
write them. The result equals that of `json` to the bit. For anything else the answer is None, and the caller reads the
file by `detection.common.json_stream`, which accepts all of JSON and names faults.

The commas are found first. Between them everything stands at a known distance, but for the length of the numbers.
Shapes: n objects in a block of the file. Positions are in bytes from the start of the block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from detection.common.json_numbers import BEFORE, LONGEST, IrregularError, are_digits, parsed, require, words_around
from detection.common.threads import map_in_threads

_WINDOW = 1 << 21  # bytes: the arrays of one block stay in the processor's cache
_RUN = re.compile(rb"[0-9.e-]+")
_STRING = re.compile(rb'"[^"]*"')


def read_number_rows(path: Path, fields: Mapping[str, int | None]) -> np.ndarray | None:
    """The numbers of all objects of the list in `path`, float64, a row for each; None if it cannot be read in this way.

    fields: the keys whose numbers are wanted, in the order of the columns, each with the length of its list, or None
    for a number. Other keys are left out.
    """
    try:
        return np.concatenate(list(map_in_threads(partial(_rows, fields=fields), _blocks(path))))
    except (OSError, IrregularError):
        return None


def number_rows(text: bytes, fields: Mapping[str, int | None], whole: Collection[str]) -> np.ndarray | None:
    """The same of a text `{…}, … {…}`.

    whole: the fields whose numbers must be written in digits alone: 7, not 7.0. With others the answer is None.
    """
    try:
        return _rows(text, fields, whole)
    except IrregularError:
        return None


def _blocks(path: Path) -> Iterator[bytes]:
    """The list's text in blocks of whole objects, `{…}, … {…}`; at least one."""
    if not path.is_file():
        raise IrregularError
    rest, before = b"", b"["
    with path.open("rb") as file:
        while data := file.read(_WINDOW):
            rest += data
            end = rest.rfind(b"}") + 1
            if not end:
                if len(rest) > 2 * _WINDOW:
                    raise IrregularError
                continue
            begin = rest.find(b"{")
            if rest[:begin].strip() != before:
                raise IrregularError
            yield rest[begin:end]
            rest, before = rest[end:], b","
    if rest.strip() != b"]" or before == b"[":
        raise IrregularError


def _rows(text: bytes, fields: Mapping[str, int | None], whole: Collection[str] = ()) -> np.ndarray:
    """The numbers of a block's objects, float64 (n, columns). The first object is the model of all."""
    model = _model(text, fields, whole)
    # The last object gets a comma too. Around the text is room for what is read beside each number.
    comma = model.between[: model.between.index(b",") + 1]
    room = b" " * (LONGEST + max(map(len, model.gaps)))
    padded = np.frombuffer(b"".join([room, text, comma, room]), dtype=np.uint8)
    commas: np.ndarray = np.flatnonzero(padded == ord(","))
    if len(commas) % model.commas:
        raise IrregularError
    commas = commas.reshape(-1, model.commas)
    ends = [commas[:, place] - distance for place, distance in zip(model.places, model.distances, strict=True)]
    starts = [np.append(len(room) + model.start, ends[-1][:-1] + len(model.gaps[-1]))]
    starts += [end + len(gap) for end, gap in zip(ends[:-1], model.gaps[:-1], strict=True)]
    if int(ends[-1][-1]) + len(model.tail) != len(room) + len(text) or not text.endswith(model.tail):
        raise IrregularError
    columns = []
    for number, (start, end, gap) in enumerate(zip(starts, ends, model.gaps, strict=True)):
        lengths = end - start
        if lengths.min() < 1 or lengths.max() > LONGEST:
            raise IrregularError
        words = words_around(padded, end, len(gap))
        # what follows the last number of all is the end
        require(words[: len(end) - (number + 1 == len(ends)), BEFORE // 8 :], gap)
        columns.append(parsed(padded, start, end, words[:, : BEFORE // 8]))
        if number in model.whole and not are_digits(columns[-1], lengths):
            raise IrregularError
    return np.stack([columns[number] for number in model.wanted], axis=1)


@dataclass(frozen=True)
class _Model:
    """What all objects have in common.

    commas: how many one has, with that after it. places, distances: of each number, the comma that follows, and how
    many bytes before it the number ends. start: where the first number begins. gaps: the text after each number up to
    the next one; after the last, up to the first of the next object. tail: the text after the last number up to the
    object's end; between: from there to the next object. wanted: the numbers that are asked for, in that order;
    whole: those that must be written in digits.
    """

    commas: int
    places: list[int]
    distances: list[int]
    start: int
    gaps: list[bytes]
    tail: bytes
    between: bytes
    wanted: list[int]
    whole: set[int]


def _model(text: bytes, fields: Mapping[str, int | None], whole: Collection[str]) -> _Model:
    """The model of the objects in `text`, by its first one."""
    model = text[: text.find(b"}") + 1]
    opening = text.find(b"{", len(model))
    between = text[len(model) : opening] if opening > 0 else b","
    if between.strip() != b",":
        raise IrregularError
    spans, found = _numbers(model, fields)
    follower = model + between
    commas = [follower.find(b",", end) for _, end in spans]
    return _Model(
        commas=follower.count(b","),
        places=[follower.count(b",", 0, comma) for comma in commas],
        distances=[comma - end for comma, (_, end) in zip(commas, spans, strict=True)],
        start=spans[0][0],
        gaps=[model[end:begin] for (_, end), (begin, _) in pairwise(spans)]
        + [model[spans[-1][1] :] + between + model[: spans[0][0]]],
        tail=model[spans[-1][1] :],
        between=between,
        wanted=[number for key in fields for number in found[key]],
        whole={number for key in whole for number in found[key]},
    )


def _numbers(text: bytes, fields: Mapping[str, int | None]) -> tuple[list[tuple[int, int]], dict[str, list[int]]]:
    """Where the numbers of an object stand in its text; which of them each key has."""
    try:
        pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise IrregularError from None
    if b"\\" in text:  # perhaps an escaped quote, which `_STRING` does not know
        raise IrregularError
    found: dict[str, list[int]] = {}
    count = 0
    for key, value in pairs:
        values = value if isinstance(value, list) else [value]
        length = len(value) if isinstance(value, list) else None
        if key in found or not {*map(type, values)} <= {int, float} or fields.get(key, length) != length:
            raise IrregularError
        found[key] = [*range(count, count + len(values))]
        count += len(values)
    if not fields.keys() <= found.keys():
        raise IrregularError
    keys = [key.span() for key in _STRING.finditer(text)]
    runs = [run.span() for run in _RUN.finditer(text)]
    spans = [run for run in runs if not any(begin < run[0] < end for begin, end in keys)]
    if not count or len(spans) != count:
        raise IrregularError
    return spans, found
