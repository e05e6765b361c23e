"""The kinds of mistake → what they are in words, and the colours that they have in images and tables.

The names are those of `detection.evaluation.outcomes`; "found" and "missed" are objects.
"""

from __future__ import annotations

from typing import NamedTuple

from detection.report.captions import Color


class Kind(NamedTuple):
    """One kind: its heading, what it is, and its colour."""

    heading: str
    meaning: str
    color: Color


KINDS: dict[str, Kind] = {
    "correct": Kind("correct", "a detection that finds an object of its class (IoU 0.5)", (0, 168, 84)),
    "localisation": Kind("poor box", "right class, but it overlaps the object by only 0.1 to 0.5", (255, 136, 0)),
    "confusion": Kind("wrong class", "it overlaps an object of another class by 0.5 or more", (214, 39, 160)),
    "both": Kind("wrong class and poor box", "it overlaps an object of another class by 0.1 to 0.5", (128, 78, 220)),
    "duplicate": Kind("duplicate", "a second detection of an object that is found already", (0, 160, 190)),
    "background": Kind("background", "a detection where no object is annotated", (222, 40, 40)),
    "missed": Kind("missed", "an object that no detection finds", (0, 110, 255)),
}


def css_color(kind: str) -> str:
    """The colour of a kind as CSS.

    >>> css_color("missed")
    '#006eff'
    """
    return "#{:02x}{:02x}{:02x}".format(*KINDS[kind].color)
