"""The index: what it holds, what it repairs and counts, what it refuses."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from backbones.common.errors import UserError
from detection.data.decoder_complaints import decoder_complaints
from detection.data.findings import KINDS
from detection.data.index import DatasetIndex, load_index

SOUND: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "b.png", "height": 50, "width": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0.5, 0, 20.5, 40], "area": 800, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
}
Load = Callable[[dict[str, Any]], DatasetIndex]


def test_sound_file(load: Load, sound: dict[str, Any], tmp_path: Path) -> None:
    index = load(sound)
    assert index.findings.summary() == ""
    assert index.image_ids.tolist() == [3, 7]
    assert index.file_name(1) == "a.png"
    assert index.path(0) == tmp_path / "images" / "b.png"
    assert (index.heights.tolist(), index.widths.tolist()) == ([50, 40], [30, 60])
    assert (index.category_ids.tolist(), index.category_names) == ([5, 20], ["five", "twenty"])
    boxes, labels, crowds = index.objects(1)
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[0.5, 0, 60, 40], [10, 10, 15, 15]]
    assert labels.tolist() == [1, 2]
    assert crowds.tolist() == [True, False]
    assert index.annotation_ids.tolist() == [1, 2, 3]
    assert index.areas.tolist() == [200, 2380, 20.5]
    assert index.objects(0)[1].tolist() == [2]


def test_the_order_of_the_file_does_not_matter(load: Load, sound: dict[str, Any]) -> None:
    """COCO's 2014 and 2017 files list the same images in other orders; a training must not be another one for that."""
    index = load(sound)
    for table in sound:
        sound[table].reverse()
    turned = load(sound)
    assert turned.fingerprint == index.fingerprint
    for name in ("image_ids", "boxes", "labels", "annotation_ids", "areas", "offsets", "name_bytes"):
        assert np.array_equal(getattr(turned, name), getattr(index, name)), name


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("coco_tiny/instances.json", "coco_tiny/images"),
        ("coco_small/annotations/instances_train2017.json", "coco_small/train2017"),
        ("coco_small/annotations/instances_val2017.json", "coco_small/val2017"),
        ("bccd/annotations/train.json", "bccd/images"),
        ("bccd/annotations/val.json", "bccd/images"),
        ("bccd/annotations/test.json", "bccd/images"),
    ],
)
def test_real_files_agree_with_pycocotools(shared_data: Path, annotations: str, images: str) -> None:
    index = load_index(shared_data / annotations, shared_data / images, name="real", check="present")
    reference = COCO(str(shared_data / annotations))
    assert index.image_ids.tolist() == list(reference.getImgIds())
    objects = 0
    for i, image_id in enumerate(index.image_ids.tolist()):
        assert index.file_name(i) == reference.imgs[image_id]["file_name"]
        expected = [a for a in reference.imgToAnns[image_id] if a["bbox"][2] > 0 and a["bbox"][3] > 0]
        boxes, labels, crowds = index.objects(i)
        x, y, width, height = np.array([a["bbox"] for a in expected], dtype=np.float64).reshape(-1, 4).T
        corners = np.stack([x, y, x + width, y + height], axis=1)
        assert np.abs(boxes - corners).max(initial=0) < 0.51  # BCCD's boxes reach over the edge by a pixel at most
        assert index.category_ids[labels - 1].tolist() == [a["category_id"] for a in expected]
        assert crowds.tolist() == [bool(a["iscrowd"]) for a in expected]
        objects += len(expected)
    assert len(index.boxes) == objects


def test_bccd_zero_size_boxes_are_counted(shared_data: Path) -> None:
    found = {}
    for split in ("train", "val", "test"):
        index = load_index(shared_data / "bccd/annotations" / f"{split}.json", shared_data / "bccd/images", name=split)
        found[split] = index.findings.count("box_zero_size")
    assert sum(found.values()) == 2
    assert found["train"] == 1


def change(content: dict[str, Any], table: str, row: int, **values: Any) -> None:
    """Sets values of an entry; ... removes the key."""
    for key, value in values.items():
        if value is ...:
            del content[table][row][key]
        else:
            content[table][row][key] = value


@pytest.mark.parametrize(
    ("kind", "table", "row", "values"),
    [
        ("box_zero_size", "annotations", 0, {"bbox": [1, 2, 0, 20]}),
        ("box_zero_size", "annotations", 0, {"bbox": [1, 2, 10, 0]}),
        ("box_negative_size", "annotations", 0, {"bbox": [9, 9, -3, 5]}),
        ("box_overhanging", "annotations", 0, {"bbox": [-3, 2, 10, 20]}),
        ("box_overhanging", "annotations", 0, {"bbox": [-1e300, -1e300, 2e300, 2e300]}),
        ("box_overhanging", "annotations", 0, {"bbox": [1e-9, 1e-9, 1.7e308, 1.7e308]}),
        ("box_zero_size", "annotations", 0, {"bbox": [20, 20, 1e-12, 5]}),
        ("box_zero_size", "annotations", 0, {"bbox": [30, 2, 0, 5]}),
        ("box_outside", "annotations", 0, {"bbox": [30, 2, 10, 20]}),
        ("box_outside", "annotations", 0, {"bbox": [1, -30, 10, 20]}),
        ("box_as_text", "annotations", 0, {"bbox": ["1", "2", "10", "20"]}),
        ("id_as_text", "annotations", 0, {"image_id": "3"}),
        ("id_as_float", "annotations", 0, {"id": 1.0}),
        ("id_as_float", "annotations", 0, {"id": 15890.0}),
        ("annotation_id_missing", "annotations", 0, {"id": ...}),
        ("annotation_id_malformed", "annotations", 0, {"id": "one"}),
        ("annotation_id_malformed", "annotations", 0, {"id": "8f3c-11ee"}),
        ("annotation_id_malformed", "annotations", 0, {"id": 1.5}),
        ("annotation_id_malformed", "annotations", 0, {"id": True}),
        ("annotation_id_malformed", "annotations", 0, {"id": 2**63}),
        ("annotation_id_malformed", "annotations", 0, {"id": 10**30}),
        ("annotation_id_zero", "annotations", 0, {"id": 0}),
        ("annotation_id_twice", "annotations", 0, {"id": 2}),
        ("object_twice", "annotations", 2, {"bbox": [0.5, 0, 59.5, 40], "category_id": 5, "iscrowd": 1}),
        ("annotation_without_image", "annotations", 0, {"image_id": 99}),
        ("crowd_missing", "annotations", 0, {"iscrowd": ...}),
        ("crowd_as_boolean", "annotations", 0, {"iscrowd": False}),
        ("id_as_text", "annotations", 0, {"iscrowd": "0"}),
        ("id_as_float", "annotations", 0, {"iscrowd": 0.0}),
        ("id_as_text", "images", 0, {"height": "40"}),
        ("area_as_text", "annotations", 0, {"area": "200"}),
        ("area_missing", "annotations", 0, {"area": ...}),
        ("area_missing", "annotations", 0, {"area": math.nan}),
        ("area_missing", "annotations", 0, {"area": -1}),
        ("area_missing", "annotations", 0, {"area": 10**400}),
        ("area_missing", "annotations", 0, {"area": "large"}),
        ("area_missing", "annotations", 0, {"area": True}),
        ("ignore_flag", "annotations", 0, {"ignore": 1}),
        ("category_name_missing", "categories", 0, {"name": ...}),
        ("category_name_twice", "categories", 0, {"name": "five"}),
    ],
)
def test_repaired_and_counted(
    load: Load, sound: dict[str, Any], kind: str, table: str, row: int, values: dict[str, Any]
) -> None:
    change(sound, table, row, **values)
    index = load(sound)
    assert {found: index.findings.count(found) for found in index.findings.by_kind} == {kind: 1}
    assert index.findings.summary().startswith(f"1 {KINDS[kind].found}: {KINDS[kind].then} (")
    assert np.isfinite(index.boxes).all()
    assert (index.boxes[:, 2:] > index.boxes[:, :2]).all()
    lost = kind in ("box_zero_size", "box_negative_size", "box_outside", "annotation_without_image")
    assert len(index.boxes) == (2 if lost else 3)


def test_repairs_give_the_sound_values(load: Load, sound: dict[str, Any]) -> None:
    broken = copy.deepcopy(sound)
    change(broken, "annotations", 0, id=..., iscrowd=..., area=..., image_id="3", bbox=["1", "2", "10", "20"])
    index, expected = load(broken), load(sound)
    for name in ("image_ids", "boxes", "labels", "crowds", "areas", "offsets"):
        assert np.array_equal(getattr(index, name), getattr(expected, name)), name
    assert index.annotation_ids.tolist() == [4, 2, 3]


def test_overhanging_boxes_are_clipped(load: Load, sound: dict[str, Any]) -> None:
    change(sound, "annotations", 0, bbox=[-5, 10, 100, 100])
    assert load(sound).objects(0)[0].tolist() == [[0, 10, 30, 50]]


@pytest.mark.filterwarnings("error")
def test_an_absurd_box_without_area_still_has_a_size(load: Load, sound: dict[str, Any]) -> None:
    change(sound, "annotations", 0, bbox=[0, 0, 1e300, 1e300], area=...)
    index = load(sound)
    assert index.objects(0)[0].tolist() == [[0, 0, 30, 50]]
    assert index.areas[0] == 1e10


def test_rounding_of_two_decimals_is_no_finding(load: Load, sound: dict[str, Any]) -> None:
    change(sound, "annotations", 0, bbox=[20.01, 2, 10.0, 20])
    index = load(sound)
    assert index.findings.summary() == ""
    assert index.objects(0)[0][0, 2] == 30


@pytest.mark.parametrize(
    ("kind", "where", "table", "row", "values"),
    [
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": []}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": ...}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, 3]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, None, 4]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, "wide", 4]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": {"x": 1}}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, [3], 4]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [[1, 2], [3, 4], [5, 6], [7, 8]]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, 10**400, 4]}),
        ("box_not_finite", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, math.nan, 4]}),
        ("box_not_finite", "annotation 1 of image 3", "annotations", 0, {"bbox": [1, 2, math.inf, 4]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": [True, 2, 3, 4]}),
        ("box_malformed", "annotation 1 of image 3", "annotations", 0, {"bbox": ["1_0", 2, 3, 4]}),
        ("annotation_image_malformed", "annotation 1", "annotations", 0, {"image_id": ...}),
        ("annotation_image_malformed", "annotation 1", "annotations", 0, {"image_id": True}),
        ("annotation_image_malformed", "annotation 1", "annotations", 0, {"image_id": "3_0"}),
        ("id_too_large", "annotation 1", "annotations", 0, {"image_id": 2**53 + 1}),
        ("id_too_large", "image 9007199254740993", "images", 1, {"id": 2**53 + 1}),
        ("id_too_large", "image 1e+300", "images", 1, {"id": 1e300}),
        ("id_too_large", "category -18446744073709551616", "categories", 0, {"id": -(2**64)}),
        ("annotation_category_malformed", "annotation 1", "annotations", 0, {"category_id": None}),
        ("category_unknown", "category 6: annotation 1 of image 3", "annotations", 0, {"category_id": 6}),
        ("crowd_malformed", "annotation 1", "annotations", 0, {"iscrowd": 2}),
        ("image_id_malformed", "'a'", "images", 1, {"id": "a"}),
        ("image_id_malformed", "None", "images", 1, {"id": ...}),
        ("image_id_malformed", "True", "images", 1, {"id": True}),
        ("image_id_twice", "id 7: a.png and b.png", "images", 1, {"id": 7}),
        ("image_name_malformed", "image 3", "images", 1, {"file_name": ...}),
        ("image_name_malformed", "image 3", "images", 1, {"file_name": ""}),
        ("image_name_malformed", "image 3", "images", 1, {"file_name": "a\0b"}),
        ("size_malformed", "image 3", "images", 1, {"height": -50}),
        ("size_malformed", "image 3", "images", 1, {"height": "tall"}),
        ("size_malformed", "image 3", "images", 1, {"height": 2**40}),
        ("size_unreadable", "image 3", "images", 1, {"height": ...}),
        ("category_id_malformed", "'x'", "categories", 0, {"id": "x"}),
        ("category_id_twice", "category 5: five and twenty", "categories", 0, {"id": 5}),
    ],
)
def test_refused(
    load: Load, sound: dict[str, Any], kind: str, where: str, table: str, row: int, values: dict[str, Any]
) -> None:
    change(sound, table, row, **values)
    with pytest.raises(UserError) as caught:
        load(sound)
    message = str(caught.value)
    assert "instances.json" in message
    assert KINDS[kind].found in message
    assert KINDS[kind].then in message
    assert where in message


def test_every_kind_is_tried_somewhere() -> None:
    source = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py")).replace("'", '"')
    assert [kind for kind in KINDS if f'"{kind}"' not in source] == []


def test_all_refusals_at_once(load: Load, sound: dict[str, Any]) -> None:
    change(sound, "annotations", 0, bbox=[1, 2, math.nan, 4])
    change(sound, "annotations", 1, category_id=6)
    change(sound, "annotations", 2, bbox=[])
    with pytest.raises(UserError) as caught:
        load(sound)
    for kind in ("box_not_finite", "category_unknown", "box_malformed"):
        assert KINDS[kind].found in str(caught.value)


def test_examples_are_few_and_counts_whole(load: Load, sound: dict[str, Any]) -> None:
    sound["annotations"] = [
        {"id": i, "image_id": 3, "category_id": 5, "bbox": [1, 1, 0, 0], "iscrowd": 0, "area": 1}
        for i in range(1, 2001)
    ]
    summary = load(sound).findings.summary()
    assert summary.startswith("2000 boxes")
    assert summary.count("annotation ") == 5
    assert "annotation 1 of image 3" in summary
    assert "…" in summary


@pytest.mark.parametrize(
    ("kind", "table", "value"),
    [
        ("images_missing", "images", []),
        ("categories_missing", "categories", []),
        ("entry_not_object", "annotations", [3]),
        ("all_without_image", "annotations", [{"id": 1, "image_id": 99, "category_id": 5, "bbox": [1, 1, 2, 2]}]),
    ],
)
def test_refused_tables(load: Load, sound: dict[str, Any], kind: str, table: str, value: Any) -> None:
    sound[table] = value
    with pytest.raises(UserError, match=KINDS[kind].found):
        load(sound)


def test_what_is_listed_twice_alike_is_taken_once(load: Load, sound: dict[str, Any]) -> None:
    expected = load(sound)
    for table, kind in (("images", "image_twice"), ("categories", "category_twice")):
        content = copy.deepcopy(sound)
        content[table] += 2 * [dict(content[table][0])]
        index = load(content)
        assert {found: index.findings.count(found) for found in index.findings.by_kind} == {kind: 2}
        assert index.fingerprint == expected.fingerprint


def test_no_annotations_at_all(load: Load, sound: dict[str, Any]) -> None:
    del sound["annotations"]
    index = load(sound)
    assert index.findings.count("annotations_missing") == 1
    assert index.objects(0)[0].shape == (0, 4)
    with pytest.raises(UserError, match="no image has an object"):
        index.non_empty()


def test_only_crowds_cannot_be_trained_on(load: Load, sound: dict[str, Any]) -> None:
    for annotation in sound["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(UserError, match="no image has an object"):
        load(sound).non_empty()


def test_missing_size_is_read_from_the_file(load: Load, sound: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (50, 30)).save(tmp_path / "images" / "b.png", exif=turned)
    change(sound, "images", 1, height=..., width=0)
    index = load(sound)
    assert (index.heights[0], index.widths[0]) == (50, 30)
    assert index.findings.count("size_missing") == 1


def test_what_the_jpeg_decoder_reads_over_is_told_when_images_are_checked(
    load: Load, sound: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A block of zeros: no marker is wrong, and OpenCV's decoder only writes a line to stderr, which names no file."""
    (tmp_path / "images").mkdir()
    random = np.random.default_rng(0)
    for entry, (height, width) in zip(sound["images"], ((300, 400), (200, 300)), strict=True):
        entry |= {"height": height, "width": width, "file_name": f"{entry['id']}.jpg"}
        noise = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / entry["file_name"])
    damaged = tmp_path / "images" / sound["images"][1]["file_name"]
    data = damaged.read_bytes()
    damaged.write_bytes(data[:5000] + bytes(512) + data[5512:])
    load(sound)
    index = load_index(tmp_path / "instances.json", tmp_path / "images", name="test", check="sound")
    assert index.findings.count("image_doubtful") == 1
    assert f"{damaged}: Corrupt JPEG data: " in index.findings.summary()
    assert capfd.readouterr().err == ""
    with decoder_complaints() as complaints:
        os.write(2, b"somebody else\nCorrupt JPEG data: all of it\n")
    assert complaints == ["Corrupt JPEG data: all of it"]
    assert capfd.readouterr().err == "somebody else\n"


def test_ten_thousand_boxes_in_one_image(load: Load, sound: dict[str, Any]) -> None:
    sound["annotations"] = [
        {"id": i, "image_id": 3, "category_id": 5, "bbox": [i % 29, i % 49, 0.5, 0.5], "iscrowd": 0, "area": 0.25}
        for i in range(1, 10_001)
    ]
    assert len(load(sound).objects(0)[0]) == 10_000


def test_outlines_are_never_decoded(load: Load, sound: dict[str, Any]) -> None:
    """pycocotools' decoder crashes the process on the first of these."""
    change(sound, "annotations", 0, segmentation={"counts": [10**9], "size": [10**9, 10**9]})
    change(sound, "annotations", 1, segmentation="nonsense")
    change(sound, "annotations", 2, segmentation=[[1, 2, 3]])
    assert load(sound).findings.summary() == ""


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(
    place=st.sampled_from([(table, row, key) for table in SOUND for row in (0, 1) for key in SOUND[table][row]]),
    value=anything,
)
def test_any_value_anywhere_is_loaded_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, int, str], value: Any
) -> None:
    table, row, key = place
    content = copy.deepcopy(SOUND)
    content[table][row][key] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_text(json.dumps(content))
    try:
        index = load_index(path, path.parent, name="fuzzed")
    except UserError:
        return
    assert np.isfinite(index.boxes).all()
    assert (index.boxes[:, 2:] > index.boxes[:, :2]).all()
    assert index.labels.min(initial=1) >= 1
    index.file_name(0)


def test_subset_and_non_empty(load: Load, sound: dict[str, Any]) -> None:
    sound["images"].append({"id": 9, "file_name": "ünïcode näme\n.png", "height": 10, "width": 10})
    index = load(sound)
    kept = index.non_empty()
    assert kept.image_ids.tolist() == [3, 7]
    turned = index.subset([2, 1])
    assert turned.image_ids.tolist() == [9, 7]
    assert turned.file_name(0) == "ünïcode näme\n.png"
    assert len(turned.objects(0)[0]) == 0
    for ours, theirs in zip(turned.objects(1), index.objects(1), strict=True):
        assert np.array_equal(ours, theirs)
    assert turned.annotation_ids.tolist() == [2, 3]
    assert turned.fingerprint == index.fingerprint


def test_fingerprint_follows_the_content_alone(load: Load, sound: dict[str, Any], tmp_path: Path) -> None:
    first = load(sound).fingerprint
    reordered = {key: sound[key] for key in ("categories", "annotations", "images")}
    reordered["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    path = tmp_path / "elsewhere.json"
    path.write_text(json.dumps(reordered, indent=3))
    assert load_index(path, "other", name="other").fingerprint == first
    for table, values in (
        ("annotations", {"bbox": [1, 2, 10, 21]}),
        ("annotations", {"iscrowd": 1}),
        ("images", {"file_name": "c.png"}),
        ("categories", {"name": "forty"}),
    ):
        changed = copy.deepcopy(sound)
        change(changed, table, 0, **values)
        assert load(changed).fingerprint != first


def test_all_that_is_wrong_is_told_at_once(sound: dict[str, Any], tmp_path: Path) -> None:
    """What is refused, what is repaired, missing images and damaged ones."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)  # b.png should be 30 × 50
    sound["images"] += [{"id": i, "file_name": f"{i}.png", "height": 9, "width": 9} for i in range(100, 107)]
    (tmp_path / "100.png").write_text("<html>")
    change(sound, "annotations", 0, bbox=[1, 2, math.nan, 4])
    change(sound, "annotations", 1, bbox=[1, 2, 0, 4])
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(sound))
    with pytest.raises(UserError) as caught:
        load_index(path, tmp_path, name="test", check="sound")
    lines = str(caught.value).splitlines()
    counts = {"box_not_finite": 1, "image_missing": 6, "image_unreadable": 2, "box_zero_size": 1}
    not_finite, missing, unreadable, repaired = (
        next(line for line in lines if line.startswith(f"{count} {KINDS[kind].found}: "))
        for kind, count in counts.items()
    )
    assert lines.index(repaired) > lines.index("what could be repaired:") > lines.index(unreadable)
    assert "annotation 1 of image 3" in not_finite
    assert f"{tmp_path / '101.png'}; " in missing
    assert "106.png" not in missing  # five examples are enough
    assert "b.png: the image is 60×40 pixels (width × height), its annotations say 30×50" in unreadable
    assert "100.png: is no image" in unreadable


@pytest.mark.parametrize("images", ["present", "sound"])
def test_sound_images_pass(sound: dict[str, Any], tmp_path: Path, images: Any) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (30, 50)).save(tmp_path / "sub" / "b.png")
    change(sound, "images", 1, file_name="sub/b.png")
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(sound))
    assert load_index(path, tmp_path, name="test", check=images).findings.summary() == ""
    (tmp_path / "sub" / "b.png").rename(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"1 images without a file: give the folder that holds them.*sub/b\.png"):
        load_index(path, tmp_path, name="test", check=images)


def test_pickle_keeps_everything(load: Load, sound: dict[str, Any]) -> None:
    index = load(sound)
    copied = pickle.loads(pickle.dumps(index))
    assert copied.fingerprint == index.fingerprint
    assert copied.file_name(0) == "b.png"
    assert np.array_equal(copied.boxes, index.boxes)


def test_columns_of_a_subset_are_gathered_when_they_are_asked_for(load: Load, sound: dict[str, Any]) -> None:
    index = load(sound)
    part = index.subset([1, 0]).subset([0])
    assert "boxes" not in vars(part)
    for ours, theirs in zip(part.objects(0), index.objects(1), strict=True):
        assert np.array_equal(ours, theirs)
    assert "boxes" not in vars(part)
    copied = pickle.loads(pickle.dumps(part))
    assert "_source" not in vars(copied)  # not the whole index, whose arrays are in memory
    for one in (part, copied):
        assert (one.annotation_ids.tolist(), one.areas.tolist()) == ([2, 3], [2380, 20.5])
        assert (one.labels.tolist(), one.crowds.tolist()) == ([1, 2], [True, False])
        assert one.boxes.tolist() == [[0.5, 0, 60, 40], [10, 10, 15, 15]]
    assert part.in_class_order([1, 0]).labels.tolist() == [2, 1]
    with pytest.raises(AttributeError, match="box"):
        _ = part.box  # type: ignore[attr-defined]


def test_a_subset_of_a_subset_that_leaves_no_object_out(load: Load, sound: dict[str, Any]) -> None:
    sound["images"].insert(0, {"id": 5, "file_name": "c.png", "height": 10, "width": 10})  # between the two
    sound["images"].insert(0, {"id": 1, "file_name": "d.png", "height": 10, "width": 10})
    index = load(sound)
    assert index.image_ids.tolist() == [1, 3, 5, 7]
    part = index.subset([0, 2, 3]).subset([1, 2])
    assert part.image_ids.tolist() == [5, 7]
    assert [len(part.objects(i)[0]) for i in range(2)] == [0, 2]
    assert part.annotation_ids.tolist() == [2, 3]
    assert part.subset([1]).objects(0)[1].tolist() == part.labels.tolist() == [1, 2]


def test_images_with_targets_are_those_with_an_object_that_is_no_crowd(load: Load, sound: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    sound["images"] = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(50)]
    sound["annotations"] = [
        {"id": n, "image_id": int(random.integers(50)), "category_id": 5, "bbox": [1, 1, 5, 5], "area": 25,
         "iscrowd": int(random.random() < 0.5)}
        for n in range(1, 61)
    ]  # fmt: skip
    expected = {one["image_id"] for one in sound["annotations"] if not one["iscrowd"]}
    index = load(sound)
    assert np.flatnonzero(index.has_target).tolist() == sorted(expected)
    assert 0 < len(expected) < len({one["image_id"] for one in sound["annotations"]}) < 50
    assert index.non_empty().image_ids.tolist() == sorted(expected)
    for annotation in sound["annotations"]:
        annotation["iscrowd"] = 0
    assert load(sound).has_target.sum() == len({one["image_id"] for one in sound["annotations"]})
