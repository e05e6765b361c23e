"""Text of unknown origin → text that is safe to show on a terminal, a page or in a log."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Collection
from typing import Any

# Control characters, lone surrogates (bytes of a file's name that are no UTF-8), line and paragraph separators
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They reverse the order of the following text (Unicode Standard Annex 9), so that a name looks like another one.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with control characters, lone surrogates and marks of writing direction as Python's escapes.

    Terminals execute control sequences, and the name of a file or class may contain one. Letters of all scripts stay.

    keep_lines: keep new lines and tabs, for a message of several lines.

    >>> printable("a\x1b[2Jb\nc"), printable("größe 猫.png")
    ('a\\x1b[2Jb\\nc', 'größe 猫.png')
    """
    if text.isprintable():  # true for all but these and a few rare spaces
        return text
    return "".join(_escaped(letter) if _is_escaped(letter, keep_lines) else letter for letter in text)


def _is_escaped(letter: str, keep_lines: bool) -> bool:
    if keep_lines and letter in "\n\t":
        return False
    return letter in _BIDI_CONTROLS or unicodedata.category(letter) in _ESCAPED_CATEGORIES


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def first_of(items: Collection[object], most: int = 5) -> str:
    """The first items, for a message, and dots if there are more.

    >>> first_of(["a", "b", "c"], 2)
    'a, b, …'
    """
    return ", ".join([*map(str, itertools.islice(items, most)), *(["…"] if len(items) > most else [])])


def json_text(value: Any, indent: int | None = None) -> str:
    r"""The value as JSON. Letters of all scripts are unchanged; the characters that `printable` escapes are JSON
    escapes: a reader gets the same text, and a terminal executes no control sequence.

    Its bytes are `json_text(…).encode("utf-8")`: it holds no lone surrogates.

    >>> print(json_text({"größe": "a\x9bb\udcff"}))
    {"größe": "a\u009bb\udcff"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    # The remaining new lines are between values: `json` has escaped those within texts.
    return "".join(
        f"\\u{ord(letter):04x}" if letter != "\n" and _is_escaped(letter, keep_lines=False) else letter
        for letter in text
    )
