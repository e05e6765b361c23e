"""A class's name, in any script → a caption that the fonts can draw, and its letters as a mask.

If no font has some letter, the caption is the class's number and the letters that can be drawn, so that classes stay
distinct: "#3" if no letter of the name can be drawn.
"""

from __future__ import annotations

import functools
import itertools
import unicodedata

import numpy as np

from backbones.common.text import printable
from detection.report.fonts import Font, fonts_for, line_height

_LONGEST = 60  # letters of a caption; what is longer would cover the image


def caption_of(name: str, label: int) -> str:
    """The name of class `label` as it can be drawn: complete, or the class's number and the letters with a font."""
    text = _normalised(name)
    written = "".join(_writable(letter) for letter in text)
    if written != text or not any(map(_stands_alone, text)):
        text = f"#{label} {' '.join(written.split())}".strip()
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


@functools.lru_cache(64)
def text_mask(text: str, size: int) -> np.ndarray:
    """A line of text as uint8 (line_height(size), W), 255 where a letter is. Letters without a font are left out."""
    text = _normalised(text)
    for font in fonts_for(text):
        if all(map(font.has, text)):
            return font.mask(text, size)
    runs = itertools.groupby(text, key=_font_of)
    parts = [own.mask("".join(letters), size) for own, letters in runs if own is not None]
    return np.concatenate(parts, axis=1) if parts else np.zeros((line_height(size), 1), dtype=np.uint8)


def _stands_alone(letter: str) -> bool:
    """Whether a letter is visible by itself: spaces, joiners and accents are not."""
    return not letter.isspace() and unicodedata.category(letter) not in ("Cf", "Mn", "Mc", "Me")


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFC", printable(text))


def _writable(letter: str) -> str:
    """The letter, or the same letter without its accent, or "" if no font has either."""
    if _font_of(letter) is not None:
        return letter
    base = unicodedata.normalize("NFKD", letter)
    return "".join(part for part in base if not unicodedata.combining(part) and _font_of(part) is not None)


@functools.lru_cache(10_000)
def _font_of(letter: str) -> Font | None:
    return next((font for font in fonts_for(letter) if font.has(letter)), None)
