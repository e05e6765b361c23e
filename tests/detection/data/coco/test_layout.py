from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.coco.layout import SPLITS, resolve_split


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def put_2014_splits(root: Path) -> None:
    put(root, "annotations/instances_trainval35k.json", "annotations/instances_minival.json")
    put(root, "train2014/COCO_train2014_000000000009.jpg", "val2014/COCO_val2014_000000000042.jpg")


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_is_found_in_its_own_folder(tmp_path: Path, split: str) -> None:
    place = SPLITS[split][0]
    put(tmp_path, place.annotations, *(f"{folder}/1.jpg" for folder in place.folders))
    assert resolve_split(tmp_path, split) == (tmp_path / place.annotations, tmp_path / place.images)


def test_the_2014_layout_has_split_files_whose_names_start_at_the_root(tmp_path: Path) -> None:
    put_2014_splits(tmp_path)
    annotations = tmp_path / "annotations"
    assert resolve_split(tmp_path, "trainval35k") == (annotations / "instances_trainval35k.json", tmp_path)
    assert resolve_split(tmp_path, "minival") == (annotations / "instances_minival.json", tmp_path)


def test_of_both_layouts_the_whole_one_is_taken(tmp_path: Path) -> None:
    put_2014_splits(tmp_path)
    put(tmp_path, "annotations/instances_val2017.json")
    (tmp_path / "val2017").mkdir()  # empty: its images are still to come
    assert resolve_split(tmp_path, "minival")[1] == tmp_path
    put(tmp_path, "val2017/000000000042.jpg")
    assert resolve_split(tmp_path, "minival")[1] == tmp_path / "val2017"


def test_what_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    put(tmp_path, "annotations/instances_train2017.json", "val2014/1.jpg")
    (tmp_path / "train2017").mkdir()
    with pytest.raises(UserError) as caught:
        resolve_split(tmp_path, "trainval35k")
    assert str(caught.value) == (
        f"{tmp_path} does not hold COCO's split trainval35k. Looked for annotations/instances_train2017.json (found) "
        "and train2017/ (empty); or annotations/instances_trainval35k.json (missing) and train2014/ (missing) "
        f"and val2014/ (found). Get what is missing with: python tools/prepare_coco.py --data {tmp_path}"
    )
    with pytest.raises(UserError, match=r"--layout 2014$"):
        resolve_split(tmp_path, "val2014")
    with pytest.raises(UserError, match=r"Unpack test2017\.zip and image_info_test-dev2017\.zip"):
        resolve_split(tmp_path, "test-dev2017")


def test_an_unknown_split_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'trainval'.*did you mean 'trainval35k'"):
        resolve_split(tmp_path, "trainval")


@pytest.mark.parametrize("split", ["trainval35k", "minival"])
def test_a_true_subset_of_coco_is_found(shared_data: Path, split: str) -> None:
    annotations, images = resolve_split(shared_data / "coco_small", split)
    listed = json.loads(annotations.read_text())["images"]
    assert listed
    assert all((images / image["file_name"]).is_file() for image in listed)
