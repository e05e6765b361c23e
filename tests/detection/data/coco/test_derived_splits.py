from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from backbones.common.errors import UserError
from detection.data.coco.derived_splits import OFFICIAL_COUNTS, TRAIN2014, VAL2014, VAL2017, Counts, build_splits
from detection.data.coco.layout import MINIVAL, TRAINVAL35K


def with_names_of_2014(image: dict[str, Any], folder: str) -> dict[str, Any]:
    return {**image, "file_name": f"COCO_{folder}_{image['file_name']}"}


@pytest.fixture
def root_of_2014(shared_data: Path, tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Real 2017 annotations put back as they were in 2014, with the 2017 files that must come out again."""
    source = shared_data / "coco_small" / "annotations"
    train2017 = json.loads((source / "instances_train2017.json").read_text())
    val2017 = json.loads((source / "instances_val2017.json").read_text())
    half = {image["id"] for image in train2017["images"][::2]}
    head = {"info": {"year": 2014}, "licenses": train2017["licenses"]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / VAL2017).write_bytes((source / "instances_val2017.json").read_bytes())
    for name, parts in {
        TRAIN2014: [(train2017, lambda image_id: image_id in half)],
        VAL2014: [(val2017, lambda image_id: True), (train2017, lambda image_id: image_id not in half)],
    }.items():
        folder = name.removeprefix("annotations/instances_").removesuffix(".json")
        content = {
            **head,
            "images": [
                with_names_of_2014(i, folder) for part, belongs in parts for i in part["images"] if belongs(i["id"])
            ],
            "annotations": [a for part, belongs in parts for a in part["annotations"] if belongs(a["image_id"])],
            "categories": train2017["categories"],
        }
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path, train2017, val2017


def by_id(items: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    found = {item["id"]: item for item in items}
    assert len(found) == len(items)
    return found


def test_train2017_and_val2017_come_out_of_the_2014_files(
    root_of_2014: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    root, train2017, val2017 = root_of_2014
    whole = {TRAINVAL35K: train2017, MINIVAL: val2017}
    expected = {name: Counts(len(data["images"]), len(data["annotations"])) for name, data in whole.items()}
    assert build_splits(root, expected) == expected
    for name, data in whole.items():
        built = json.loads((root / name).read_text())
        assert by_id(built["annotations"]) == by_id(data["annotations"])
        images = by_id(built["images"])
        assert images.keys() == by_id(data["images"]).keys()
        assert built["categories"] == data["categories"]
        assert built["licenses"] == data["licenses"]
        for image in data["images"]:
            folder, _, file_name = images[image["id"]]["file_name"].partition("/")
            assert file_name == f"COCO_{folder}_{image['file_name']}"
            assert folder in (("val2014",) if name == MINIVAL else ("train2014", "val2014"))
        with contextlib.redirect_stdout(io.StringIO()):
            assert len(COCO(str(root / name)).getAnnIds()) == len(data["annotations"])
    assert {image["file_name"].split("/")[0] for image in images.values()} == {"val2014"}


def test_files_that_are_not_the_official_ones_are_refused_by_the_counts(
    root_of_2014: tuple[Path, dict[str, Any], dict[str, Any]],
) -> None:
    root = root_of_2014[0]
    with pytest.raises(UserError, match="66 images with 496 annotations, where 118,287 images with 860,001"):
        build_splits(root)
    assert sorted(path.name for path in (root / "annotations").iterdir()) == sorted(
        Path(name).name for name in (TRAIN2014, VAL2014, VAL2017)
    )


def small(images: list[int], annotations: list[int], **changes: Any) -> str:
    data = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in images],
        "annotations": [{"id": 10 * i + n, "image_id": i} for n, i in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person"}],
    }
    return json.dumps({**data, **changes})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (VAL2014, small([3], [3]), "1 images of val2017, 4 for one"),
        (TRAIN2014, small([1], [1], categories=[]), "different categories"),
        (TRAIN2014, small([1], [1])[:-20], "instances_train2014.json is damaged"),
        (TRAIN2014, "[1, 2]", "instances_train2014.json is damaged"),
        (TRAIN2014, "<html>", "instances_train2014.json is damaged"),
        (TRAIN2014, '{"annotations": [{"id": 1}]}', r"train2014.json is damaged .*KeyError: 'image_id'"),
        (VAL2017, '{"images": [4]}', "instances_val2017.json is damaged"),
        (VAL2014, None, "instances_val2014.json is missing"),
    ],
)
def test_inputs_that_do_not_fit_are_named_and_nothing_is_written(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    files = {TRAIN2014: small([1, 2], [1]), VAL2014: small([3, 4], [4, 4]), VAL2017: small([4], [4, 4])}
    counts = {TRAINVAL35K: Counts(3, 1), MINIVAL: Counts(1, 2)}
    (tmp_path / "annotations").mkdir()
    for path, content in {**files, name: text}.items():
        if content is not None:
            (tmp_path / path).write_text(content)
    before = set((tmp_path / "annotations").iterdir())
    with pytest.raises(UserError, match=message):
        build_splits(tmp_path, counts)
    assert set((tmp_path / "annotations").iterdir()) == before
    (tmp_path / name).write_text(files[name])
    assert build_splits(tmp_path, counts) == counts


def test_the_official_counts_are_the_2017_ones() -> None:
    assert OFFICIAL_COUNTS == {TRAINVAL35K: (118_287, 860_001), MINIVAL: (5_000, 36_781)}
