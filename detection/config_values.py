"""A value from YAML or a file of torch, and a field of a configuration → the field's value, or what is wrong with it.

Nothing is guessed: an integer serves as a float, and a list as a tuple. Every number has two bounds, every text and
list has a length at most, so that a stranger's file cannot ask for more than a configuration ever holds.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from detection.common.shortened import short
from detection.config import LENGTH

TEXT_LIMIT = 4_096  # characters of a text; the longest path that Linux takes
FREE_VALUES = 10_000  # values within a free form such as data.albumentations
FREE_DEPTH = 20
FREE_NUMBER = 1_000_000_000


def convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` says.

    Raises:
        ValueError: it is of another type, a text or list is too long, or a free form is too large.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert_to_any(value, [argument for argument in arguments if argument is not type(None)])
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise ValueError(f"{short(value)} is none of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected a list [a, b, …], got {short(value)}")
        if len(value) > LENGTH:
            raise ValueError(f"{len(value)} values are out of range: at most {LENGTH}")
        if arguments[-1] is Ellipsis:
            return tuple(convert(item, arguments[0]) for item in value)
        if len(value) != len(arguments):
            raise ValueError(f"expected {len(arguments)} values, got {len(value)}")
        return tuple(convert(item, argument) for item, argument in zip(value, arguments, strict=True))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"expected keys and values, got {short(value)}")
        _check_free(value)
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{short(value)} is out of range") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
        raise ValueError(f"expected {names[hint]}, got {short(value)}")
    if isinstance(value, str):
        _check_text(value)
    return value


def _convert_to_any(value: Any, hints: Sequence[Any]) -> Any:
    """`value` as the first of the types that it fits; raises ValueError with what was wrong for each."""
    wrong = []
    for hint in hints:
        try:
            return convert(value, hint)
        except ValueError as error:
            wrong.append(str(error))
    raise ValueError("; or ".join(wrong))


def check_range(value: Any, bounds: Mapping[str, Any]) -> None:
    """Raises ValueError unless a number, or each of a tuple's, is finite and within the bounds that `within` set."""
    numbers = value if isinstance(value, tuple) else (value,)
    if "most" in bounds and len(numbers) > bounds["most"]:
        raise ValueError(f"{len(numbers)} values are out of range: at most {bounds['most']}")
    for number in numbers:
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{number} is not a finite number")
        if isinstance(number, str):  # a word that is accepted in place of a number
            continue
        if "low" in bounds and number is not None and not bounds["low"] <= number <= bounds["high"]:
            raise ValueError(f"{short(number)} is out of range: from {bounds['low']} to {bounds['high']}")


def _check_free(value: Any) -> None:
    """Raises ValueError unless a value of free form is made of a moderate number of texts, numbers, lists and mappings.

    In a file of torch one list may stand in many places: a few of those within each other unfold to more than any
    memory.
    """
    waiting, seen = [(value, 1)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if seen > FREE_VALUES or depth > FREE_DEPTH:
            raise ValueError(f"more than {FREE_VALUES} values, or more than {FREE_DEPTH} within each other")
        if isinstance(item, Mapping):
            if odd := [key for key in item if not isinstance(key, str)]:
                raise ValueError(f"the key {short(odd[0])} is not a word")
            waiting += [(inner, depth + 1) for inner in (*item, *item.values())]
        elif isinstance(item, (list, tuple)):
            waiting += [(inner, depth + 1) for inner in item]
        elif isinstance(item, str):
            _check_text(item)
        elif isinstance(item, (int, float)):
            check_range(item, {"low": -FREE_NUMBER, "high": FREE_NUMBER})
        elif item is not None:
            raise ValueError(f"expected texts, numbers, lists and mappings, got a {type(item).__name__}")


def _check_text(text: str) -> None:
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"a text of {len(text)} characters, more than the {TEXT_LIMIT} accepted: {short(text)}")
