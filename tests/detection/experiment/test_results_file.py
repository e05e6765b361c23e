"""Results files: written, read back, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common import json_stream
from detection.evaluation.results import rounded
from detection.experiment import results_file
from detection.experiment.results_file import read_results, write_results

ENTRY = {"image_id": 3, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


def random_detections(rows: int) -> np.ndarray:
    random = np.random.default_rng(0)
    scores = random.random(rows).astype(np.float32)  # close together, as a network gives them
    ids = random.integers(1, 600_000, rows)
    return np.column_stack([ids, random.uniform(0, 600, (rows, 4)), scores, random.integers(1, 91, rows)])


def test_reads_back_what_rounded_says(tmp_path: Path) -> None:
    detections = random_detections(500)
    write_results(tmp_path / "results.json", detections)
    read = read_results(tmp_path / "results.json")
    np.testing.assert_array_equal(read, rounded(detections))
    by_image = detections[np.argsort(detections[:, 0], kind="stable")]
    np.testing.assert_array_equal(read[:, 5], by_image[:, 5])  # scores to the last bit
    np.testing.assert_allclose(read[:, 1:5], by_image[:, 1:5], rtol=0, atol=0.000501)


def test_is_cocos_format(tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", np.array([[3, 1.23456, 2, 3, 4, 0.5, 1]]))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == [{"image_id": 3, "category_id": 1, "bbox": [1.235, 2, 3, 4], "score": 0.5}]
    assert isinstance(content[0]["image_id"], int)


def test_file_does_not_depend_on_the_order_of_images(tmp_path: Path) -> None:
    detections = random_detections(50)
    write_results(tmp_path / "one.json", detections)
    write_results(tmp_path / "other.json", detections[::-1])
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8])
def test_every_length_is_whole_json(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_file, "_ROWS_AT_A_TIME", 4)
    write_results(tmp_path / "results.json", random_detections(rows))
    assert len(json.loads((tmp_path / "results.json").read_text())) == rows
    assert read_results(tmp_path / "results.json").shape == (rows, 7)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_results(path, random_detections(3))
    before = path.read_bytes()

    def fail(row: list[float]) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(results_file, "_entry", fail)
    with pytest.raises(OSError, match="disk full"):
        write_results(path, random_detections(5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(5, np.nan, "score"), (2, np.inf, "box"), (3, -1.0, "negative width"), (0, 1.5, "id"), (6, np.nan, "id")],
)
def test_rows_that_cannot_be_meant_are_refused(tmp_path: Path, column: int, value: float, message: str) -> None:
    detections = random_detections(5)
    detections[2, column] = value
    with pytest.raises(UserError, match=f"{message}.* in row "):
        write_results(tmp_path / "results.json", detections)
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("[] 2", "value has ended")])
def test_files_that_are_no_list(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_results(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "must hold a list"),
        ([ENTRY, 7], "entry number 1 .*not an object"),
        ([ENTRY, {"image_id": 3, "category_id": 1, "segmentation": {}, "score": 1}], "entry number 1 .*lacks bbox"),
        ([{**ENTRY, "bbox": [1, 2, 3]}], r"entry number 0 .*image id 3.*bbox"),
        ([{**ENTRY, "bbox": [1, 2, 3, float("nan")]}], r"image id 3.*bbox"),
        ([{**ENTRY, "score": float("nan")}], r"image id 3.*score"),
        ([{**ENTRY, "score": None}], "score must be a finite number"),
        ([{**ENTRY, "category_id": "1"}], "category_id must be a finite number"),
        ([{**ENTRY, "image_id": 2.5}], "no whole number"),
        ([{**ENTRY, "bbox": [1, 2, -3, 4]}], "negative width"),
    ],
)
def test_files_that_cannot_be_meant_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as refusal:
        read_results(path)
    assert str(path) in str(refusal.value)


def test_other_fields_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**ENTRY, "segmentation": {"size": [-1, 2**40], "counts": "x"}, "id": 0}]))
    assert read_results(path).tolist() == [[3, 1, 2, 3, 4, 0.5, 1]]


def entries_of_all_sorts() -> list[dict[str, Any]]:
    """Keys in several orders, other fields before and after, whole numbers and fractions."""
    masked = {"segmentation": {"size": [480, 640], "counts": "ab{"}, **ENTRY}
    return [
        {**ENTRY, "image_id": number, "score": score, **more}
        for number, (score, more) in enumerate(zip([0.5, 1, 0.25e-3] * 10, [{}, masked, {"of": {}}] * 10, strict=True))
    ] + [dict(reversed(masked.items()))]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("window", [150, 400, 1 << 22])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_windows_end_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int, indent: int | None, encoding: str
) -> None:
    """What is cut in the middle waits for the next window, and nothing is read twice."""
    entries = entries_of_all_sorts()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries, indent=indent) + "\n", encoding=encoding)
    expected = [[e["image_id"], *e["bbox"], e["score"], e["category_id"]] for e in entries]
    monkeypatch.setattr(json_stream, "WINDOW", window)
    monkeypatch.delattr(results_file, "_row")  # the way of unusual entries
    assert read_results(path).tolist() == expected
    monkeypatch.setattr(json_stream, "FEW", 2)
    assert read_results(path).tolist() == expected


def test_positions_count_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", 64)
    monkeypatch.setattr(json_stream, "FEW", 2)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**ENTRY, "parts": [{"a": 1}, {"b": "}, {"}, {}, {}]}] * 4))
    assert read_results(path).tolist() == [[3, 1, 2, 3, 4, 0.5, 1]] * 4
    path.write_text(json.dumps([ENTRY] * 9)[:-1])
    with pytest.raises(UserError, match=r"ends in the middle, after \d+ characters"):
        read_results(path)
    path.write_text(json.dumps([*[ENTRY] * 9, {**ENTRY, "score": "high"}, *[ENTRY] * 9]))
    with pytest.raises(UserError, match=r"entry number 9 .*score must be a finite number, not 'high'"):
        read_results(path)
    path.write_text(json.dumps([*[ENTRY] * 9, {**ENTRY, "bbox": [1, 2, 3, 10**400]}]))
    with pytest.raises(UserError, match=r"entry number 9 .*bbox must be four finite numbers"):
        read_results(path)
