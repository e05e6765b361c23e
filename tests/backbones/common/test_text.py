"""Text to be shown: control characters are escaped, letters stay."""

from __future__ import annotations

import doctest
import json
import os
import unicodedata

import pytest

from backbones.common import text as module
from backbones.common.text import first_of, json_text, printable


@pytest.mark.parametrize(
    "text", ["cat", "größe 猫 кот قطة", "a b", "C:\\new\\table", "👩‍🚀", "می‌خواهم", "", "a\u00a0b"]
)
def test_letters_of_all_scripts_stay(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b]0;title\x07b", r"a\x1b]0;title\x07b"),
        ("two\nlines\tand\r", r"two\nlines\tand\r"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),
        ("a\u2028b\u2029c\u2066d", r"a\u2028b\u2029c\u2066d"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
    ],
)
def test_what_is_no_letter_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(printable(text)) == expected


def test_lines_can_be_kept() -> None:
    assert printable("a\n\tb\x1b[1m\r", keep_lines=True) == "a\n\tb\\x1b[1m\\r"


def test_no_control_character_is_left() -> None:
    shown = printable("".join(map(chr, range(0x110000))))
    assert not {unicodedata.category(letter) for letter in shown} & {"Cc", "Cs", "Zl", "Zp"}


def test_worked_example() -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


@pytest.mark.parametrize("indent", [None, 1])
def test_json_gives_every_text_back(indent: int | None) -> None:
    letters = "".join(map(chr, [*range(0x300), *range(0x2000, 0x2100), 0xDCFF, 0xD800, 0x1F408]))
    text = json_text({"é猫": [letters, 0.5, None]}, indent)
    assert json.loads(text) == {"é猫": [letters, 0.5, None]}
    text.encode("utf-8")
    assert "é猫" in text
    assert printable(text.replace("\n", "")) == text.replace("\n", "")


def test_the_first_items_and_dots_for_the_others() -> None:
    assert first_of([]) == ""
    assert first_of(("a", 1), 2) == "a, 1"
    assert first_of(dict.fromkeys("abc"), 2) == "a, b, …"
