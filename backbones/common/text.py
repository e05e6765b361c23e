"""Text from files and strangers → text that a terminal, a page or a log can show."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# Control characters, lone surrogates (bytes of a file's name that are no UTF-8), line and paragraph separators
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They turn the order of what follows round (Unicode Standard Annex 9), so that a name reads as another one.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""The text with control characters, lone surrogates and marks of writing direction as Python's escapes.

    Terminals carry out control sequences that they are sent; a file or class may be named by one. Letters of all
    scripts stay as they are.

    keep_lines: new lines and tabs stay, as in a message of several lines.

    >>> printable("a\x1b[2Jb\nc"), printable("größe 猫.png")
    ('a\\x1b[2Jb\\nc', 'größe 猫.png')
    """
    if text.isprintable():  # which all but these and a few rare kinds of spaces are
        return text
    return "".join(_escaped(letter) if _is_escaped(letter, keep_lines) else letter for letter in text)


def _is_escaped(letter: str, keep_lines: bool) -> bool:
    if keep_lines and letter in "\n\t":
        return False
    return letter in _BIDI_CONTROLS or unicodedata.category(letter) in _ESCAPED_CATEGORIES


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def json_text(value: Any, indent: int | None = None) -> str:
    r"""The value as JSON with letters of all scripts as they are and what `printable` escapes as JSON's own escapes:
    whoever reads it gets the same text, and a terminal that it is printed on carries out nothing.

    Its bytes are `json_text(…).encode("utf-8")`: it holds no lone surrogates.

    >>> print(json_text({"größe": "a\x9bb\udcff"}))
    {"größe": "a\u009bb\udcff"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    # New lines that are left stand between the values: within texts `json` has escaped them.
    return "".join(
        f"\\u{ord(letter):04x}" if letter != "\n" and _is_escaped(letter, keep_lines=False) else letter
        for letter in text
    )
