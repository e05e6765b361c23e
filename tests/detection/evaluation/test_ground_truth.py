"""What the evaluation makes of annotation files, good and bad."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common import json_stream
from detection.evaluation import ground_truth
from detection.evaluation.ground_truth import read_ground_truth

CONTENT: dict[str, Any] = {
    "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
    "categories": [{"id": 9, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 11.5, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 10, 10], "area": 60, "iscrowd": 1},
    ],
}


def changed(**annotation: Any) -> dict[str, Any]:
    """The content with the first annotation changed."""
    content = copy.deepcopy(CONTENT)
    content["annotations"][0].update(annotation)
    return content


def test_arrays() -> None:
    truth = read_ground_truth(CONTENT)
    assert truth.image_ids.tolist() == [3, 5]
    assert truth.category_ids.tolist() == [2, 9]
    assert truth.category_names == ["dog", "cat"]
    assert truth.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 10, 10]]
    assert truth.areas.tolist() == [11.5, 60]
    assert truth.crowds.tolist() == [False, True]
    assert truth.object_image_ids.tolist() == [5, 3]
    assert truth.object_category_ids.tolist() == [9, 2]
    assert truth.repairs == {}


def test_reads_a_file_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8-sig")
    assert read_ground_truth(path).boxes.tolist() == read_ground_truth(CONTENT).boxes.tolist()


@pytest.mark.parametrize(
    ("annotation", "note"),
    [
        ({"id": 0}, "id 0"),
        ({"id": 2}, "used before"),
        ({"id": "one"}, "numeric id"),
        ({"iscrowd": None}, "iscrowd"),
        ({"area": None}, "area"),
        ({"area": float("nan")}, "area"),
        ({"area": -1}, "area"),
        ({"bbox": [1, 2, 0, 4]}, "without width or height"),
        ({"bbox": ["1", 2, 3, "4.5"]}, "as text"),
        ({"image_id": "5"}, "as text"),
        ({"image_id": 77}, "images that are not listed"),
        ({"category_id": 77}, "categories that are not listed"),
    ],
)
def test_repaired_and_counted(annotation: dict[str, Any], note: str) -> None:
    truth = read_ground_truth(changed(**annotation))
    assert any(note in repair for repair in truth.repairs), truth.repairs
    left_out = "not listed" in note
    assert len(truth.boxes) == 2 - left_out
    if "area" in annotation:
        assert truth.areas[0] == 12.0


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [1, 2, float("nan"), 4]},
        {"bbox": [1, 2, float("inf"), 4]},
        {"bbox": []},
        {"bbox": None},
        {"bbox": [1, 2, 10**400, 4]},
        {"iscrowd": 2},
        {"iscrowd": "yes"},
        {"image_id": 1.5},
        {"image_id": True},
        {"category_id": None},
    ],
)
def test_refused_by_annotation_id(annotation: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="annotation id 1 "):
        read_ground_truth(changed(**annotation))


def test_images_listed_twice() -> None:
    content = copy.deepcopy(CONTENT)
    content["images"].append(content["images"][0])
    assert read_ground_truth(content).repairs == {"image entries that repeat an earlier one, taken once": 1}
    content["images"].append({"id": 5, "file_name": "other.jpg"})
    with pytest.raises(UserError, match="share image id 5"):
        read_ground_truth(content)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_nothing_listed_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"lists no {key}"):
        read_ground_truth({**CONTENT, key: []})
    with pytest.raises(UserError, match="not a COCO annotation file"):
        read_ground_truth({name: value for name, value in CONTENT.items() if name != key})


def test_no_list_of_annotations_means_no_objects() -> None:
    truth = read_ground_truth({key: CONTENT[key] for key in ("images", "categories")})
    assert truth.boxes.shape == (0, 4)
    assert len(truth.repairs) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\xff\xfe", b"[" * 100_000, b"<html>"])
def test_files_that_are_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json"):
        read_ground_truth(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        read_ground_truth(tmp_path / "absent.json")


def test_some_of_the_images() -> None:
    truth = read_ground_truth(CONTENT).restricted_to(np.array([5, 5]))
    assert truth.image_ids.tolist() == [5]
    assert truth.boxes.tolist() == [[1, 2, 3, 4]]
    assert truth.category_names == ["dog", "cat"]


def test_real_annotations_need_no_repair_but_bccd(shared_data: Path) -> None:
    """BCCD has boxes without size; COCO's own files are clean."""
    assert read_ground_truth(shared_data / "coco_tiny" / "instances.json").repairs == {}
    repairs: dict[str, int] = {}
    for split in ("train", "val", "test"):
        for repair, count in read_ground_truth(shared_data / "bccd" / "annotations" / f"{split}.json").repairs.items():
            repairs[repair] = repairs.get(repair, 0) + count
    assert {repair.split(",")[0]: count for repair, count in repairs.items()} == {"boxes without width or height": 2}


def odd_content() -> dict[str, Any]:
    """Forty annotations, some of which need a closer look; they come before the lists that they refer to."""
    annotations = [{**CONTENT["annotations"][number % 2], "id": number + 1} for number in range(40)]
    annotations[7] |= {"id": 1}
    annotations[12] |= {"image_id": 77}
    annotations[13] |= {"category_id": 78, "image_id": "3"}
    annotations[21] |= {"area": None, "id": 3}
    annotations[33] |= {"bbox": [1, 2, 0, 4]}
    annotations[34] |= {"category_id": 80}
    return {"annotations": annotations, "images": CONTENT["images"], "categories": CONTENT["categories"]}


def test_block_by_block_is_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file comes in blocks, most of which become arrays; what is odd is looked at entry by entry, to the same end."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(odd_content()))
    monkeypatch.setattr(json_stream, "WINDOW", 500)
    blocks = read_ground_truth(path)
    monkeypatch.setattr(ground_truth, "_plain_targets", lambda block: block)
    for entries in (read_ground_truth(path), read_ground_truth(odd_content())):
        assert entries.repairs == blocks.repairs
        for name in ("boxes", "areas", "crowds", "object_image_ids", "object_category_ids", "image_ids"):
            np.testing.assert_array_equal(getattr(blocks, name), getattr(entries, name))
    assert len(blocks.boxes) == 37
    assert {repair.split(",")[0]: count for repair, count in blocks.repairs.items()} == {
        "annotations with an id used before": 2,
        "annotations of images that are not listed": 1,
        "annotations of categories that are not listed": 2,
        "numbers written as text": 1,
        "annotations without a usable `area`": 1,
        "boxes without width or height": 1,
    }


def test_position_counts_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = odd_content()
    content["annotations"][30] |= {"bbox": [1, 2, 3]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(json_stream, "WINDOW", 500)
    with pytest.raises(UserError, match=r"annotation id 31 \(number 30 from 0\): bbox must be four"):
        read_ground_truth(path)


def test_outlines_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    content = changed(segmentation=[[float("nan")] * 8, ["?"]])
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(read_ground_truth(path).boxes, read_ground_truth(CONTENT).boxes)
