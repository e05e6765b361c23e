"""Any value → a few words for a message, however large it is or deeply nested."""

from __future__ import annotations

import reprlib
import types
from typing import Any


def short(value: Any) -> str:
    """A value for a message: as `repr` where it is small, else its beginning, however large it is."""
    return _shortened.repr(value)


class _Shortened(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if abs(x) < 10**20 else "a whole number of more than 20 digits"

    def repr_instance(self, x: Any, level: int) -> str:
        return repr(x) if isinstance(x, (bool, float, types.NoneType)) else f"a {type(x).__name__}"


_shortened = _Shortened()
_shortened.maxlevel = 2
_shortened.maxstring = _shortened.maxother = 80
