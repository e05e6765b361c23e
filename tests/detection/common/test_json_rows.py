"""Numbers of a list of JSON objects that are alike, against the `json` module, to the bit."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.common import json_rows
from detection.common.json_rows import read_number_rows

FIELDS = {"image_id": None, "bbox": 4, "score": None}
ENTRY = '{"image_id": 3, "bbox": [1, 2.5, 30, 4.125], "score": 0.5}'


def read(path: Path, text: str) -> list[list[float]] | None:
    path.write_text(text, encoding="utf-8")
    rows = read_number_rows(path, FIELDS)
    return None if rows is None else rows.tolist()


def expected(text: str) -> list[list[float]]:
    return [[entry["image_id"], *entry["bbox"], entry["score"]] for entry in json.loads(text)]


def numbers(random: np.random.Generator, count: int) -> list[float | int]:
    """Of every form that programs write: whole, of few and of all decimals, small, negative, from float32."""
    plain = random.random(count)
    forms: list[list[Any]] = [
        plain.tolist(),
        plain.astype(np.float32).astype(np.float64).tolist(),
        (plain.astype(np.float32) * 600).astype(np.float64).tolist(),
        np.round(plain * 600, 3).tolist(),
        np.round(plain, 7).tolist(),
        (plain * 1e-3).tolist(),
        (plain**40).tolist(),
        (plain * 10 ** random.integers(0, 19, count)).astype(np.int64).tolist(),
        np.nextafter(np.round(plain, 2), 2).tolist(),
    ]
    return [int(sign) * forms[form][i] for i, (form, sign) in enumerate(
        zip(random.integers(0, len(forms), count), random.choice([1, 1, 1, -1], count), strict=True)
    )]  # fmt: skip


@pytest.mark.parametrize("window", [1 << 21, 700, 300])
@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 1}])
def test_equals_json_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, style: dict[str, Any]
) -> None:
    random = np.random.default_rng(window)
    entries = [
        {"other": [one[0]], "image_id": one[1], "bbox": one[2:6], "score": one[6]}
        for one in (numbers(random, 7) for _ in range(400))
    ]
    text = json.dumps(entries, **style) + "\n"
    monkeypatch.setattr(json_rows, "_WINDOW", window)
    monkeypatch.setenv("OMP_NUM_THREADS", "1" if window == 300 else "3")
    assert read(tmp_path / "list.json", text) == expected(text)


def test_decimals_next_to_the_middle_of_two_numbers(tmp_path: Path) -> None:
    """The text of 16 to 18 digits nearest to the middle of two neighbouring float64."""
    random = np.random.default_rng(0)
    low = random.uniform(0.06, 1, 3000)
    texts = []
    for number, digits in zip(low.tolist(), random.integers(16, 19, len(low)).tolist(), strict=True):
        middle = (Fraction(number) + Fraction(float(np.nextafter(number, 2)))) / 2
        texts.append(f"0.{round(middle * 10**digits):0{digits}d}")
    text = "[" + ",".join(f'{{"image_id": 1, "bbox": [1, 1, 1, 1], "score": {one}}}' for one in texts) + "]"
    assert read(tmp_path / "list.json", text) == expected(text)


@pytest.mark.parametrize(
    "second",
    [
        ENTRY.replace("3", "03"),
        ENTRY.replace("3,", "-,"),
        ENTRY.replace("0.5", ".5"),
        ENTRY.replace("0.5", "5."),
        ENTRY.replace("0.5", "0.5.5"),
        ENTRY.replace("0.5", "0.123456789.5"),
        ENTRY.replace("0.5", "1-5"),
        ENTRY.replace("0.5", "1e5"),
        ENTRY.replace("0.5", "1.e-5"),
        ENTRY.replace("0.5", "-1.e5"),
        ENTRY.replace("0.5", "1e-"),
        ENTRY.replace("0.5", "--1"),
        ENTRY.replace("0.5", "1e400"),
        ENTRY.replace("0.5", "NaN"),
        ENTRY.replace("0.5", "0." + "5" * 40),
        ENTRY.replace("image_id", "ima3ge_id"),
        ENTRY.replace("image", "imags"),
        ENTRY.replace(": 3", ":  3"),
        ENTRY.replace("]", ", 5]"),
        ENTRY.replace("}", ', "more": 1}'),
        "7, " + ENTRY,
        ENTRY + "7",
        ENTRY.replace("3,", "3 ,"),
        ENTRY.replace("3,", "3 7,"),
        ENTRY.replace("3,", " 3,"),
        ENTRY.replace("3,", ","),
        ENTRY.replace("3,", "+3,"),
        ENTRY.replace("3,", "1_0,"),
        ENTRY.replace("3,", "0x1,"),
        ENTRY.replace("3,", "inf,"),
        ENTRY.replace("3,", "\0003,"),
        ENTRY.replace("0.5", "3\0003e-1"),
        ENTRY.replace("3,", '"3",'),
        ENTRY.replace("3,", "-01,"),
        ENTRY.replace("3,", "--1,"),
        ENTRY.replace("3,", "1:2,"),
        ENTRY.replace("3,", "1/2,"),
        ENTRY.replace("3,", "\u0663,"),
        ENTRY.replace("image_id", "imageXid"),
        ENTRY.replace("2.5", "2,5"),
        ENTRY.replace(", 30", " 30"),
        ENTRY.replace("}", ""),
        ENTRY.replace("}", "]"),
        "{}",
    ],
)
def test_lists_that_are_not_alike_are_left_to_json(tmp_path: Path, second: str) -> None:
    """Or its result is that of `json`; never another one, and never numbers of what is no JSON."""
    for text in (f"[{ENTRY}, {second}, {ENTRY}]", f"[{ENTRY}, {ENTRY}, {second}]", f"[{second}, {ENTRY}]"):
        found = read(tmp_path / "list.json", text)
        assert found is None or found == expected(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[", "{}", ENTRY, f"[{ENTRY}", f"[{ENTRY},]", f"[{ENTRY}]]", f"[{ENTRY}] 1", f"[,{ENTRY}]",
        f"[{ENTRY} {ENTRY}]", f"[{ENTRY},,{ENTRY}]", f"\ufeff[{ENTRY}]", '[{"image_id": 1, "bbox": 4, "score": 1}]',
        '[{"image_id": 1, "image_id": 2, "bbox": [1, 2, 3, 4], "score": 1}]', '[{"image_id": 1, "score": 1}]',
        '[{"image_id": true, "bbox": [1, 2, 3, 4], "score": 1}]',
        '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1, "name": "a"}]',
        r'[{"a\"1": 7, "image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', '[{"image_id": ' + "[" * 100_000 + "}]",
    ],
)  # fmt: skip
def test_other_texts_are_left_to_json(tmp_path: Path, text: str) -> None:
    assert read(tmp_path / "list.json", text) is None


def test_a_missing_file_and_a_folder_are_left_to_json(tmp_path: Path) -> None:
    assert read_number_rows(tmp_path / "none.json", FIELDS) is None
    assert read_number_rows(tmp_path, FIELDS) is None


def test_numbers_that_are_not_asked_for_must_be_numbers_too(tmp_path: Path) -> None:
    texts = [ENTRY.replace("{", '{"id": ' + number + ", ") for number in ("7", "1-5", "7")]
    assert read(tmp_path / "list.json", f"[{', '.join(texts[::2])}]") is not None
    assert read(tmp_path / "list.json", f"[{', '.join(texts)}]") is None


def test_empty_lists_and_keys_with_commas(tmp_path: Path) -> None:
    entry = ENTRY.replace("{", '{"segmentation": [], "a, b": 5, ').replace("}", ', "counts": []}')
    text = f"[{entry} ,\n {entry.replace('30', '3e1')} ,\n {entry}]"
    assert read(tmp_path / "list.json", text) == expected(text)


def test_keys_with_letters_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('[{"e-1.e": -5e-7, "deed": [0.25, -0.0]}, {"e-1.e": 0.75, "deed": [1e-12, 3]}]')
    rows = read_number_rows(path, {"deed": 2, "e-1.e": None})
    assert rows is not None
    assert rows.tolist() == [[0.25, 0.0, -5e-7], [1e-12, 3, 0.75]]
