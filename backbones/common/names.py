"""An unknown name → the most similar known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 64  # characters; the time of a comparison grows with the product of both lengths


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`; None if none is similar enough, or `name` is not a text or is
    longer than `LONGEST`."""
    if not isinstance(name, str) or len(name) > LONGEST:
        return None
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The addition to an error message about an unknown name: the nearest known name, or "".

    >>> did_you_mean("widht", ["width", "height"]), did_you_mean("colour", ["width", "height"])
    ("; did you mean 'width'?", '')
    """
    nearest = nearest_name(name, known)
    return "" if nearest is None else f"; did you mean {nearest!r}?"
