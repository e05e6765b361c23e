"""A name that nobody knows → the known one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 64  # characters; the comparison takes time by the product of both names' lengths


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`; None if none is much like it, or `name` is no text or too long to be a
    mistyped one."""
    if not isinstance(name, str) or len(name) > LONGEST:
        return None
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What an error message adds after an unknown name: the nearest known one, or nothing.

    >>> did_you_mean("widht", ["width", "height"]), did_you_mean("colour", ["width", "height"])
    ("; did you mean 'width'?", '')
    """
    nearest = nearest_name(name, known)
    return "" if nearest is None else f"; did you mean {nearest!r}?"
