"""Class names in every script: drawn where there is a font, told apart where there is none."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.report import fonts, lettering
from detection.report.drawing import class_color, draw_detections
from detection.report.fonts import in_visual_order, line_height, system_fonts
from detection.report.lettering import caption_of, text_mask

NAMES = {
    "Latin": ["cat", "naïve", "naive", "Łódź", "Ở", "smörgås"],
    "Greek": ["γάτα", "σκύλος"],
    "Cyrillic": ["кошка", "їжак"],
    "Chinese": ["猫", "犬", "自行车"],
    "Korean": ["고양이"],
    "Hebrew": ["חתול", "כלב"],
    "Arabic": ["قطة", "كلب"],
    "Thai": ["แมว", "สุนัข"],
    "Devanagari": ["बिल्ली", "कुत्ता"],
    "no script": ["🐈", "\U0003f000\U0003f001", "", " ", "\u0301"],
}
ALL = [name for names in NAMES.values() for name in names]


def forget() -> None:
    for function in (system_fonts, text_mask, lettering._font_of):
        function.cache_clear()


@pytest.fixture(params=["all fonts", "the system's", "OpenCV's", "none"])
def available(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """OpenCV 5 has fonts, OpenCV 4 has none; a server may have no fonts at all."""
    if request.param in ("the system's", "none"):
        monkeypatch.delattr(cv2, "FontFace", raising=False)
    if request.param in ("OpenCV's", "none"):
        monkeypatch.setattr(fonts, "font_folders", list)
    if request.param == "OpenCV's" and not hasattr(cv2, "FontFace"):
        pytest.skip(f"OpenCV {cv2.__version__} HAS NO FONTS: nothing was drawn with them")
    forget()
    yield request.param
    forget()


def test_every_name_leaves_a_drawing_of_its_own(available: str) -> None:
    masks = {(name, label): text_mask(caption_of(name, label), 24) for label, name in enumerate(ALL, start=1)}
    for (name, _), mask in masks.items():
        assert mask.dtype == np.uint8
        assert mask.shape[0] == line_height(24)
        assert (mask > 128).sum() > 10, name
    for (one, first), (other, second) in itertools.combinations(masks.items(), 2):
        assert first.shape != second.shape or np.abs(first.astype(int) - second).max() > 64, (one, other)


def test_captions_on_images_differ(available: str) -> None:
    image = np.full((100, 500, 3), 128, dtype=np.uint8)
    drawings = []
    for label, name in enumerate(ALL, start=1):
        drawn = draw_detections(image, np.array([[10.0, 40, 490, 90]]), [label], ALL, [0.5])
        plate = (drawn[10:36] == class_color(label)).all(axis=-1)
        assert plate.any(), name
        # letters stand out from their plate
        luma = drawn[10:36].astype(float) @ [0.299, 0.587, 0.114]
        row, column = np.nonzero(plate)
        inside = luma[row.min() : row.max() + 1, column.min() : column.max() + 1]
        assert inside.max() - inside.min() > 60, name
        drawings.append(drawn.tobytes())
    assert len(set(drawings)) == len(ALL)


def test_what_no_font_has_is_told_apart_by_its_number(available: str) -> None:
    assert caption_of("\U0003f000\U0003f001", 12) == "#12"
    assert caption_of("\U0003f000 cat", 3) == "#3 cat"
    assert caption_of("", 4) == caption_of("  ", 4) == "#4"
    assert caption_of("\u0301", 4).startswith("#4")
    assert caption_of("cat", 1) == "cat"
    assert caption_of("\U0003f000 a", 1) != caption_of("\U0003f001 a", 2)
    if available == "none":
        assert caption_of("naïve 猫", 5) == "#5 naive"
        assert caption_of("γάτα", 6) == "#6"
    if available in ("all fonts", "OpenCV's") and hasattr(cv2, "FontFace"):
        for script in ("Latin", "Greek", "Cyrillic", "Chinese", "Korean", "Hebrew", "Arabic"):
            assert [caption_of(name, 1) for name in NAMES[script]] == NAMES[script]


def test_accents_are_drawn() -> None:
    if caption_of("é", 1) != "é":
        pytest.skip("NO FONT WITH ACCENTS here: nothing was tried of them")
    with_accent, without = text_mask("é", 40), text_mask("e", 40)
    width = min(with_accent.shape[1], without.shape[1])
    more = with_accent[:, :width].astype(int) - without[:, :width]
    assert np.abs(more[: line_height(40) // 2]).max() > 200
    # as one character or as two
    assert np.array_equal(text_mask("e\u0301", 40), with_accent)


@pytest.mark.parametrize("script", ["Greek", "Cyrillic", "Arabic", "Hebrew", "Chinese", "Thai", "Devanagari"])
def test_the_system_s_fonts_write_whole_words(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    forget()
    found = [all(any(font.has(letter) for font in system_fonts()) for letter in name) for name in NAMES[script]]
    captions = [caption_of(name, 9) for name in NAMES[script]]
    forget()
    if not all(found):
        pytest.skip(f"NO FONT FOR {script.upper()} on this system: nothing was tried with one")
    assert captions == NAMES[script]


def test_letters_that_run_from_right_to_left() -> None:
    assert in_visual_order("cat 0.93") == "cat 0.93"
    assert in_visual_order("אב גד 0.93") == "0.93 דג בא"
    assert in_visual_order("cat אב") == "cat בא"
    assert in_visual_order("שָׁל") == "ל" + "שָׁ"
    # Hebrew's letters do not join: whichever library draws, the first letter is the rightmost
    mask = text_mask("אi", 40)
    assert mask.shape[1] > 0


def test_control_characters_and_long_names() -> None:
    assert caption_of("a\x1b[2J\nb", 1) == r"a\x1b[2J\nb"
    assert len(caption_of("x" * 1_000_000, 1)) == 60
    assert text_mask("", 20).shape[0] == line_height(20)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30), st.integers(1, 90), st.integers(11, 60))
def test_any_name_can_be_drawn(name: str, label: int, size: int) -> None:
    caption = caption_of(name, label)
    assert caption
    mask = text_mask(caption, size)
    assert mask.shape[0] == line_height(size)
    assert mask.any()


def test_fonts_that_are_damaged_are_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("dejavusans.ttf", "b.otf", "c.ttc"):
        (tmp_path / name).write_bytes(b"\0\1\0\0" + bytes(500))
    (tmp_path / "gone.ttf").symlink_to(tmp_path / "nothing")
    monkeypatch.setattr(fonts, "font_folders", lambda: [tmp_path, tmp_path / "absent"])
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    forget()
    assert len(system_fonts()) == 4
    assert caption_of("кошка", 2) == "#2"
    assert caption_of("cat", 2) == "cat"
    forget()


def test_folders_of_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_DIRS", "/one:/two")
    monkeypatch.setenv("WINDIR", "C:\\Windows")
    folders = list(map(str, fonts.font_folders()))
    assert {"/one/fonts", "/two/fonts", "/System/Library/Fonts", "C:\\Windows\\Fonts"} <= set(folders)


def test_worked_example() -> None:
    outcome = doctest.testmod(fonts)
    assert outcome.attempted > 0
    assert outcome.failed == 0
