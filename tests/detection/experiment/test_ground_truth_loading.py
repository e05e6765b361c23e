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
from detection.data.findings import KINDS
from detection.data.index import load_index
from detection.experiment.ground_truth_loading import ground_truth_of, load_ground_truth, write_ground_truth

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


def kinds(content: dict[str, Any] | Path) -> dict[str, int]:
    """What is found in a file, with counts."""
    findings = load_index(content, None, name="x", purpose="evaluation").findings
    return {kind: finding.count for kind, finding in findings.by_kind.items()}


def test_arrays() -> None:
    truth = load_ground_truth(CONTENT)
    assert truth.image_ids.tolist() == [3, 5]
    assert truth.category_ids.tolist() == [2, 9]
    assert truth.category_names == ["dog", "cat"]
    by_image = np.argsort(truth.object_image_ids, kind="stable")
    assert truth.object_image_ids[by_image].tolist() == [3, 5]
    assert truth.boxes[by_image].tolist() == [[0, 0, 10, 10], [1, 2, 3, 4]]
    assert truth.areas[by_image].tolist() == [60, 11.5]
    assert truth.crowds[by_image].tolist() == [True, False]
    assert truth.object_category_ids[by_image].tolist() == [2, 9]
    assert truth.notes == []
    assert truth.boxes.dtype == truth.areas.dtype == np.float64


def test_reads_a_file_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8-sig")
    truth = load_ground_truth(path)
    assert truth.boxes.tolist() == load_ground_truth(CONTENT).boxes.tolist()
    assert truth.source == str(path)


def test_a_dict_may_hold_what_json_writes_alike_and_nothing_else() -> None:
    assert load_ground_truth(changed(bbox=(1, 2, np.float64(3), 4))).notes == []
    with pytest.raises(UserError, match="cannot be written as JSON"):
        load_ground_truth(changed(bbox=np.ones(4)))


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ({"id": 0}, "annotation_id_zero"),
        ({"id": 2}, "annotation_id_twice"),
        ({"id": "one"}, "annotation_id_malformed"),
        ({"iscrowd": None}, "crowd_missing"),
        ({"iscrowd": "0"}, "id_as_text"),
        ({"iscrowd": False}, "crowd_as_boolean"),
        ({"area": None}, "area_missing"),
        ({"area": float("nan")}, "area_missing"),
        ({"area": -1}, "area_missing"),
        ({"area": True}, "area_missing"),
        ({"area": "12.0"}, "area_as_text"),
        ({"bbox": [1, 2, 0, 4]}, "box_zero_size"),
        ({"bbox": [1, 2, -3, 4]}, "box_negative_size"),
        ({"bbox": ["1", 2, 3, "4.5"]}, "box_as_text"),
        ({"image_id": "5"}, "id_as_text"),
        ({"image_id": 77}, "annotation_without_image"),
        ({"category_id": 77}, "category_unknown"),
    ],
)
def test_repaired_and_counted(annotation: dict[str, Any], kind: str) -> None:
    content = changed(**annotation)
    assert kinds(content) == {kind: 1}
    truth = load_ground_truth(content)
    [note] = truth.notes
    assert note.startswith(f"1 {KINDS[kind].found}: {KINDS[kind].outcome('evaluation')[0]}")
    left_out = kind in ("annotation_without_image", "category_unknown")
    assert len(truth.boxes) == 2 - left_out
    if "area" in annotation:
        assert truth.areas[truth.object_image_ids == 5] == 12.0


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": [1, 2, float("nan"), 4]},
        {"bbox": [1, 2, float("inf"), 4]},
        {"bbox": []},
        {"bbox": None},
        {"bbox": [1, 2, 10**400, 4]},
        {"bbox": [True, 2, 3, 4]},
        {"iscrowd": 2},
        {"iscrowd": "yes"},
        {"image_id": 1.5},
        {"image_id": True},
        {"image_id": 2**60},
        {"category_id": None},
    ],
)
def test_refused_by_annotation_id(annotation: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="annotation 1 "):
        load_ground_truth(changed(**annotation))


def test_images_and_categories_listed_twice() -> None:
    content = copy.deepcopy(CONTENT)
    content["images"].append(content["images"][0])
    content["categories"].append(content["categories"][0])
    assert kinds(content) == {"image_twice": 1, "category_twice": 1}
    content["images"].append({"id": 5, "file_name": "other.jpg"})
    with pytest.raises(UserError, match=r"image ids used for two different images: .*\(id 5: a\.jpg and other\.jpg"):
        load_ground_truth(content)


def test_an_image_needs_no_more_than_an_id_where_no_image_is_opened() -> None:
    content = copy.deepcopy(CONTENT)
    content["images"] = [{"id": 5}, {"id": 3, "file_name": 7, "width": "wide", "height": -3}]
    truth = load_ground_truth(content)
    assert truth.notes == []
    assert truth.image_ids.tolist() == [3, 5]
    index = load_index(content, None, name="x", purpose="evaluation")
    with pytest.raises(ValueError, match="without images"):
        index.path(0)
    with pytest.raises(UserError, match="without a usable `file_name`"):
        load_index(content, ".", name="x", purpose="evaluation")


def test_boxes_are_taken_as_stated_though_training_clips_them() -> None:
    content = changed(bbox=[-5, 2, 100, 4])
    content["images"] = [{**image, "height": 20, "width": 20} for image in content["images"]]
    content["annotations"].append({**content["annotations"][0], "id": 3, "bbox": [30, 30, 5, 5]})
    index = load_index(content, "nowhere", name="x", purpose="evaluation")
    assert index.objects(1)[0].tolist() == [[0, 2, 20, 6]]
    assert ground_truth_of(index).boxes.tolist() == [[0, 0, 10, 10], [-5, 2, 100, 4], [30, 30, 5, 5]]
    assert [index.findings.count(kind) for kind in ("box_overhanging", "box_outside")] == [1, 1]
    assert load_ground_truth(content).boxes.tolist() == ground_truth_of(index).boxes.tolist()
    with pytest.raises(ValueError, match="loaded for training"):
        ground_truth_of(load_index(content, "nowhere", name="x"))


def test_the_purpose_changes_nothing_else(shared_data: Path) -> None:
    """A store of proposals fits, and recall keeps its numbers."""
    folder = shared_data / "bccd"
    for split in ("train", "val"):
        training, evaluation = (
            load_index(folder / f"annotations/{split}.json", folder / "images", name=split, purpose=purpose)
            for purpose in ("training", "evaluation")
        )
        assert training.fingerprint == evaluation.fingerprint
        for name in ("image_ids", "boxes", "labels", "crowds", "areas", "offsets", "annotation_ids", "name_bytes"):
            np.testing.assert_array_equal(getattr(training, name), getattr(evaluation, name))
        assert training.stated is None
        assert evaluation.stated is not None
        assert len(evaluation.stated.boxes) == len(training.boxes) + 1  # the box without size


@pytest.mark.parametrize("key", ["images", "categories"])
def test_nothing_listed_is_refused(key: str) -> None:
    for content in ({**CONTENT, key: []}, {name: value for name, value in CONTENT.items() if name != key}):
        with pytest.raises(UserError, match=f"files without {key}: `{key}` must list at least one"):
            load_ground_truth(content)


def test_no_list_of_annotations_means_no_objects() -> None:
    truth = load_ground_truth({key: CONTENT[key] for key in ("images", "categories")})
    assert truth.boxes.shape == (0, 4)
    assert len(truth.notes) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2", b"\xff\xfe", b"[" * 100_000, b"<html>"])
def test_files_that_are_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json"):
        load_ground_truth(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: cannot be read"):
        load_ground_truth(tmp_path / "absent.json")


def test_some_of_the_images() -> None:
    index = load_index(CONTENT, None, name="x", purpose="evaluation")
    truth = ground_truth_of(index.subset([1]))
    assert truth.image_ids.tolist() == [5]
    assert truth.boxes.tolist() == [[1, 2, 3, 4]]
    assert truth.category_names == ["dog", "cat"]


def test_real_annotations_need_no_repair_but_bccd(shared_data: Path) -> None:
    """BCCD has boxes without size; COCO's own files are clean."""
    assert kinds(shared_data / "coco_tiny" / "instances.json") == {}
    found: dict[str, int] = {}
    for split in ("train", "val", "test"):
        for kind, count in kinds(shared_data / "bccd" / "annotations" / f"{split}.json").items():
            found[kind] = found.get(kind, 0) + count
    assert found == {"box_zero_size": 2}


def odd_content() -> dict[str, Any]:
    """Forty annotations, some of which need a closer look; they come before the lists that they refer to."""
    annotations = [
        {**CONTENT["annotations"][number % 2], "id": number + 1, "bbox": [number, 2, 3, 4]} for number in range(40)
    ]
    annotations[7] |= {"id": 1}
    annotations[12] |= {"image_id": 77}
    annotations[13] |= {"category_id": 78, "image_id": "3"}
    annotations[21] |= {"area": None, "id": 3}
    annotations[33] |= {"bbox": [1, 2, 0, 4]}
    annotations[34] |= {"category_id": 80}
    return {"annotations": annotations, "images": CONTENT["images"], "categories": CONTENT["categories"]}


def test_block_by_block_is_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file comes in blocks, most of which become arrays; what is odd is looked at entry by entry, to the same end."""
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(odd_content()))
    monkeypatch.setattr(json_stream, "WINDOW", 500)
    blocks, whole = load_ground_truth(path), load_ground_truth(odd_content())
    assert blocks.notes == whole.notes
    for name in ("boxes", "areas", "crowds", "object_image_ids", "object_category_ids", "image_ids"):
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))
    assert len(blocks.boxes) == 37
    assert kinds(path) == {
        "annotation_id_twice": 2,
        "annotation_without_image": 1,
        "category_unknown": 2,
        "id_as_text": 1,
        "area_missing": 1,
        "box_zero_size": 1,
    }


def test_outlines_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    content = changed(segmentation=[[float("nan")] * 8, ["?"]])
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(load_ground_truth(path).boxes, load_ground_truth(CONTENT).boxes)


def test_what_is_written_is_read_again_to_the_bit(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"] += [{"id": 1, "file_name": "caf\udce9.jpg", "height": 9, "width": 7}]
    content["categories"] += [{"id": 4, "name": "cat"}]  # the name of another class
    content["annotations"] += [
        {"id": 0, "image_id": 5, "category_id": 4, "bbox": [1 / 3, -2e-17, 0.1 + 0.2, 0], "area": 1 / 7},
        {"id": 0, "image_id": 3, "category_id": 9, "bbox": [1e9, 5, 1, 1]},
    ]
    index = load_index(content, None, name="x", purpose="evaluation")
    for part in (index, index.subset([0, 2]), index.in_class_order([2, 0, 1])):
        write_ground_truth(tmp_path / "ground_truth.json", part)
        expected, found = ground_truth_of(part), load_ground_truth(tmp_path / "ground_truth.json")
        assert found.category_names == expected.category_names
        for name in ("image_ids", "category_ids", "boxes", "areas", "crowds", "object_image_ids"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
        np.testing.assert_array_equal(found.object_category_ids, expected.object_category_ids)
    images = json.loads((tmp_path / "ground_truth.json").read_text())["images"]
    assert images[0] == {"id": 1, "file_name": "caf\udce9.jpg", "height": 0, "width": 0}
