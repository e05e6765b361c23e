"""The fonts that text is drawn with; each turns a line of text into a mask of its letters.

OpenCV 5 contains fonts for Latin, Cyrillic, Greek, Hebrew, Arabic, Chinese, Japanese and Korean, and needs no file. The
system's fonts are drawn by Pillow, which joins and orders letters as their script requires (with the library Raqm).
Pillow contains a font for ASCII.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

ASCENT, DESCENT = 1.05, 0.35  # of a line, in font sizes: space for accents above capitals, and for descenders
_TESTED_AT = 24  # pixels; the size at which letters are compared with the missing-glyph sign
_UNASSIGNED = "\U0010fffe"  # a noncharacter: no font has it
_MOST_FILES = 1000  # of the system's fonts, at most
_STYLED = re.compile(r"bold|italic|oblique|mono|light|thin|black|heavy|condensed|narrow|serif|symbol|emoji|math|icon")
_PREFERRED = ("dejavusans", "notosans-", "notosanscjk", "notosans", "liberationsans", "segoeui", "arial", "msyh")


class Font(Protocol):
    """A font that draws at any size."""

    def has(self, letter: str) -> bool:
        """Whether it has the letter."""
        ...

    def mask(self, text: str, size: int) -> np.ndarray:
        """A line of text as uint8 (line_height(size), W), 255 where a letter is; size: pixels from line to line."""
        ...


def line_height(size: int) -> int:
    """The height in pixels of a line of text of this size."""
    return _baseline(size) + round(DESCENT * size)


def fonts_for(text: str) -> Iterator[Font]:
    """The fonts to try for a text, the best first.

    Scripts whose letters join or change order are drawn with the system's fonts, if there are any: OpenCV draws letters
    one after the other.
    """
    built_in = [_opencvs_own()] if hasattr(cv2, "FontFace") else []
    if _needs_shaping(text):
        yield from system_fonts()
        yield from built_in
        yield _pillows_own()
    else:
        yield from built_in
        yield _pillows_own()
        yield from system_fonts()


def font_folders() -> list[Path]:
    """The font folders of Linux (XDG standard), macOS and Windows."""
    home = os.path.expanduser("~")
    data = [os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"]
    data += (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    folders = [*(f"{folder}/fonts" for folder in data), f"{home}/.fonts"]
    folders += ["/System/Library/Fonts", "/Library/Fonts", f"{home}/Library/Fonts"]
    windows, local = os.environ.get("WINDIR"), os.environ.get("LOCALAPPDATA")
    folders += [f"{windows}\\Fonts"] * bool(windows) + [f"{local}\\Microsoft\\Windows\\Fonts"] * bool(local)
    return [Path(folder) for folder in folders]


@functools.cache
def system_fonts() -> tuple[Font, ...]:
    """The fonts of this system, regular and well-known ones first; they are opened on first use."""
    files = []
    for folder in font_folders():
        for place, _, names in os.walk(folder):
            files += [Path(place, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc", ".otc"))]

    def preference(file: Path) -> tuple[bool, int, str]:
        name = file.stem.lower().replace(" ", "")
        rank = next((rank for rank, start in enumerate(_PREFERRED) if name.startswith(start)), len(_PREFERRED))
        return bool(_STYLED.search(name)), rank, name

    return tuple(_PillowFont(file) for file in sorted(set(files), key=preference)[:_MOST_FILES])


class _PillowFont:
    """A font of a file, or Pillow's own."""

    def __init__(self, file: Path | None) -> None:
        self._open = functools.lru_cache(8)(lambda size: _open(file, size))
        # Raqm draws a circle under a mark without a letter, so that the mark would seem to be in the font.
        self._plain = functools.cache(lambda: _open(file, _TESTED_AT, ImageFont.Layout.BASIC))
        self._has: dict[str, bool] = {}

    def has(self, letter: str) -> bool:
        if letter not in self._has:
            font = self._plain()
            self._has[letter] = font is not None and (
                not _is_seen(letter) or _pixels(font, letter) != _pixels(font, _UNASSIGNED)
            )
        return self._has[letter]

    def mask(self, text: str, size: int) -> np.ndarray:
        font = self._open(size)
        assert font is not None
        text = text if _has_raqm() else in_visual_order(text)
        image = Image.new("L", (max(1, int(font.getlength(text)) + 2), line_height(size)))
        ImageDraw.Draw(image).text((0, _baseline(size)), text, fill=255, font=font, anchor="ls")
        return np.array(image)


@functools.cache
def _pillows_own() -> Font:
    return _PillowFont(None)


def _open(file: Path | None, size: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size, layout_engine=layout)
    except Exception:  # damaged, or of a kind that cannot be scaled
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


def _pixels(font: ImageFont.FreeTypeFont, letter: str) -> bytes:
    try:
        return bytes(font.getmask(letter))
    except Exception:  # a damaged glyph counts as none
        return bytes(font.getmask(_UNASSIGNED))


class _OpenCVFont:
    """The fonts that OpenCV 5 contains."""

    _WEIGHT = 400  # regular

    def has(self, letter: str) -> bool:
        return not _is_seen(letter) or _opencv_has(letter)

    def mask(self, text: str, size: int) -> np.ndarray:
        text, baseline = in_visual_order(text), _baseline(size)
        face = cv2.FontFace("sans")
        nothing = np.zeros((1, 1), dtype=np.uint8)
        (width, _), _ = cv2.putText(nothing, text, (0, 0), 255, face, size, self._WEIGHT)
        mask = np.zeros((line_height(size), max(1, width + 2)), dtype=np.uint8)
        cv2.putText(mask, text, (0, baseline), 255, face, size, self._WEIGHT)
        return mask


@functools.cache
def _opencvs_own() -> Font:
    return _OpenCVFont()


@functools.lru_cache(10_000)
def _opencv_has(letter: str) -> bool:
    """Whether OpenCV has the letter: it draws a question mark for a letter that it lacks."""
    font = _opencvs_own()
    return letter == "?" or not np.array_equal(font.mask(letter, _TESTED_AT), font.mask("?", _TESTED_AT))


@functools.cache
def _has_raqm() -> bool:
    return bool(features.check("raqm"))


def _baseline(size: int) -> int:
    return round(ASCENT * size)


def _is_seen(letter: str) -> bool:
    """Whether a letter is visible: spaces and joiners are not."""
    return not letter.isspace() and unicodedata.category(letter) != "Cf"


def _needs_shaping(text: str) -> bool:
    """Whether the text has letters from right to left, or marks that must be positioned."""
    return any(_is_right_to_left(letter) or unicodedata.category(letter) in ("Mn", "Mc") for letter in text)


def _is_right_to_left(letter: str) -> bool:
    return unicodedata.bidirectional(letter) in ("R", "AL")


def in_visual_order(text: str) -> str:
    """Text with its letters in order from left to right, word by word: a simple form of Unicode's Standard Annex 9, for
    systems without a library for it.

    >>> in_visual_order("\\u05d0\\u05d1 0.9") == "0.9 \\u05d1\\u05d0"
    True
    """
    if not any(map(_is_right_to_left, text)):
        return text
    words = [_reversed(word) if any(map(_is_right_to_left, word)) else word for word in text.split(" ")]
    first = next(letter for letter in text if unicodedata.bidirectional(letter) in ("L", "R", "AL"))
    return " ".join(reversed(words) if _is_right_to_left(first) else words)


def _reversed(word: str) -> str:
    """The word in reverse order; a mark stays after its letter."""
    letters: list[str] = []
    for letter in word:
        if letters and unicodedata.combining(letter):
            letters[-1] += letter
        else:
            letters.append(letter)
    return "".join(reversed(letters))
