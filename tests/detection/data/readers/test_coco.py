"""COCO's files into tables: boxes from outlines, and columns that hold something unusual."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common import json_stream
from detection.data.findings import KINDS, Findings
from detection.data.index import load_index
from detection.data.readers import coco
from detection.data.readers.coco import read_tables
from detection.data.readers.coco_outlines import box_of_outline
from detection.data.tables import Tables

POLYGONS: list[Any] = [
    [[10, 5, 20, 5, 20, 15.5, 10, 15.5]],
    [[3, 3, 4, 4, 3, 5], [30, 20, 31, 21, 30, 22]],  # two parts
    [1, 2, 9, 2, 9, 12, 1, 12],  # one polygon by itself, as some exporters write it
]
BOXES = [[10, 5, 10, 10.5], [3, 3, 28, 19], [1, 2, 8, 10]]


def content_of(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "1.png", "height": 40, "width": 60}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "iscrowd": 0, **entry} for i, entry in enumerate(annotations)
        ],
        "categories": [{"id": 1, "name": "one"}],
    }


def read(content: dict[str, Any], path: Path) -> tuple[Tables, dict[str, int]]:
    path.write_text(json.dumps(content))
    findings = Findings()
    tables = read_tables(path, findings)
    return tables, {kind: finding.count for kind, finding in findings.by_kind.items()}


@pytest.mark.parametrize("missing", [{}, {"bbox": None}, {"bbox": []}])
@pytest.mark.parametrize("window", [120, 1 << 22])
def test_boxes_are_taken_from_the_outlines_where_there_are_none(
    missing: dict[str, Any], window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    entries = [{"segmentation": polygons, **missing} for polygons in POLYGONS]
    entries.insert(1, {"bbox": [1, 2, 3, 4], "segmentation": [[0, 0, 50, 0, 50, 30]], "area": 5})
    content = content_of(entries)
    content["annotations"].insert(0, 7)  # no entry at all: the others keep their places
    tables, found = read(content, tmp_path / "a.json")
    assert tables.boxes.tolist() == [BOXES[0], [1, 2, 3, 4], *BOXES[1:]]
    assert tables.areas.tolist() == [105, 5, 532, 80]
    assert found == {"entry_not_object": 1, "box_from_outline": 3, "area_missing": 3}
    in_memory, findings = read_tables(content, Findings()), Findings()
    np.testing.assert_array_equal(in_memory.boxes, tables.boxes)
    content["annotations"].pop(0)
    index = load_index(content, "nowhere", name="x")
    assert "3 annotations with polygons and without `bbox`: the box around the polygons taken" in (
        index.findings.summary()
    )
    assert findings.by_kind == {}


def test_a_file_with_boxes_is_read_once_and_its_outlines_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("detection.data.readers.coco._fill_from_outlines")
    tables, found = read(content_of([{"bbox": [1, 2, 3, 4], "segmentation": [["?"]], "area": 9}]), tmp_path / "a.json")
    assert tables.boxes.tolist() == [[1, 2, 3, 4]]
    assert found == {}


@pytest.mark.parametrize(
    "outline",
    [
        {"counts": [5, 9], "size": [40, 60]},
        [],
        None,
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 10**400]],
        [{"x": 1}],
        "outline",
        0,
    ],
)
def test_an_outline_of_no_use_leaves_a_box_that_is_refused_once(outline: Any, tmp_path: Path) -> None:
    content = content_of([{"segmentation": outline, "area": 9}, {"bbox": [1, 1, 5, 5], "area": 9}])
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as refusal:
        load_index(path, tmp_path, name="x")
    lines = str(refusal.value).splitlines()
    assert lines[1].startswith("1 boxes that are not four numbers: write [x, y, width, height]")
    assert "annotation 1 of image 1" in lines[1]
    assert len(lines) == 2  # it is not called a box without size, too


def test_box_of_outline() -> None:
    for polygons, box in zip(POLYGONS, BOXES, strict=True):
        result = box_of_outline(polygons)
        assert result is not None
        assert result.tolist() == box
    assert box_of_outline([]) is None


def test_one_unusual_value_changes_nothing_for_the_others(tmp_path: Path) -> None:
    entries = [{"bbox": [i, 2, 3, 4], "area": 12.5 + i} for i in range(20)]
    usual, _ = read(content_of(entries), tmp_path / "a.json")
    content = content_of(entries)
    content["annotations"][3] |= {"id": "4", "image_id": 1.0, "category_id": "1", "iscrowd": False}
    content["annotations"][3] |= {"bbox": ["3", 2.0, 3, "4e0"], "area": "15.5"}
    unusual, found = read(content, tmp_path / "b.json")
    assert found == {
        "id_as_text": 2,
        "id_as_float": 1,
        "crowd_as_boolean": 1,
        "box_as_text": 1,
        "area_as_text": 1,
    }
    for name in ("annotation_ids", "image_of", "category_of", "boxes", "crowds", "areas"):
        column = getattr(unusual, name)
        np.testing.assert_array_equal(column, getattr(usual, name))
        assert column.dtype == getattr(usual, name).dtype


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_a_key_that_stands_twice_with_different_values_is_refused(purpose: Any, tmp_path: Path) -> None:
    entries = [{"bbox": [i, 2, 3, 4], "area": 12.5, "attributes": {"id": i}} for i in range(20)]
    path = tmp_path / "a.json"
    text = json.dumps(content_of(entries))
    path.write_text(text.replace('"area": 12.5', '"area": 12.5, "area": 12.5'))  # the same: nothing to choose from
    assert load_index(path, tmp_path, name="x", purpose=purpose).findings.summary() == ""
    path.write_text(text.replace('"bbox": [7,', '"bbox": [8, 2, 3, 4], "bbox": [7,'))
    with pytest.raises(UserError) as refusal:
        load_index(path, tmp_path, name="x", purpose=purpose)
    kind = KINDS["key_twice"]
    assert f"1 {kind.found}: {kind.then} ('bbox' of the entry of 'annotations' with id 8)" in str(refusal.value)


UNUSUAL: list[dict[str, Any]] = [
    {}, {"id": 7.0}, {"id": "7"}, {"id": -7}, {"id": 2**60 + 1}, {"image_id": None}, {"image_id": 1.5},
    {"category_id": "one"}, {"iscrowd": 1}, {"iscrowd": 2}, {"iscrowd": True}, {"area": -1}, {"area": None},
    {"area": 1e-7}, {"area": 10**30}, {"bbox": [1, "2", 3, 4]}, {"bbox": [1, 2, 3]}, {"bbox": []},
    {"bbox": [-1.5, -0.0, 1e-5, 1e300]}, {"ignore": 1}, {"score": 0.5}, {"caption": "a}]"},
    {"segmentation": [[0, 0, 5, 0, 5, 5]]}, {"segmentation": {"counts": [0, 5], "size": [40, 60]}},
    {"attributes": [{"a": 1}]},
]  # fmt: skip


@pytest.mark.parametrize("unusual", UNUSUAL, ids=str)
@pytest.mark.parametrize("style", [{}, {"separators": (",", ":")}, {"indent": 1}])
@pytest.mark.parametrize("members", [("images", "annotations", "categories"), ("annotations", "categories", "images")])
def test_annotations_that_are_alike_are_read_as_others(
    unusual: dict[str, Any], style: dict[str, Any], members: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A file, where blocks of such annotations become arrays at once, and a dict, whose entries are read singly."""
    random = np.random.default_rng(0)
    entries = [
        {"area": float(area), "bbox": box.tolist(), **(unusual if number == 25 else {})}
        for number, (area, box) in enumerate(zip(random.random(40) * 100, random.random((40, 4)) * 30, strict=True))
    ]
    content = content_of(entries)
    expected, told = read_tables(content, of_dict := Findings()), of_dict.by_kind
    path = tmp_path / "a.json"
    path.write_text(json.dumps({name: content[name] for name in members}, **style))
    singly: list[int] = []
    read_singly = coco._annotations

    def counted(block: list[dict[str, Any]], *rest: Any) -> Any:
        singly.append(len(block))
        return read_singly(block, *rest)

    monkeypatch.setattr(coco, "_annotations", counted)
    for window in (300, 1500, 1 << 22):
        singly.clear()
        monkeypatch.setattr(json_stream, "WINDOW", window)
        tables, findings = read_tables(path, found := Findings()), found.by_kind
        assert findings == told
        for name, column in vars(expected).items():
            np.testing.assert_array_equal(getattr(tables, name), column)
    if str(unusual) in ("{}", "{'iscrowd': 1}"):
        assert sum(singly) == 0  # in one window
