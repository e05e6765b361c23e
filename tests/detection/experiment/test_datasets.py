"""Which files a configuration means, what of them is trained on, and the index that is kept."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.data import image_checks, index_cache
from detection.data.demo import demo_files, make_demo_dataset
from detection.experiment import datasets
from detection.experiment.datasets import check_split, open_split, open_training_splits
from detection.experiment.run_folder import root_of
from tests.detection.data.readers.folders import draw, write
from tests.detection.ranks import by_ranks

ANNOTATIONS = "annotations/instances_test.json"


@pytest.mark.parametrize("layout", ["coco", "demo"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"annotations": ANNOTATIONS}, r"data\.test\.annotations without data\.test\.images: give both, or neither"),
        ({"images": "test"}, r"data\.test\.images without data\.test\.annotations: give both, or neither"),
    ],
)
def test_annotations_and_images_go_together(tmp_path: Path, layout: str, given: dict[str, str], message: str) -> None:
    data = settings.Data(root=str(tmp_path / "data"), layout=layout, test=settings.Split("val2017", **given))
    with pytest.raises(UserError, match=message):
        open_split(data, "test")
    assert not (tmp_path / "data").exists()  # nothing was drawn


@pytest.mark.parametrize("layout", ["files", "coco", "demo"])
def test_files_that_are_named_count_in_every_layout(tmp_path: Path, layout: str) -> None:
    make_demo_dataset(tmp_path, train=1, test=2)
    split = settings.Split("mine", annotations=ANNOTATIONS, images="test")
    index = open_split(settings.Data(root=str(tmp_path), layout=layout, test=split), "test")
    assert (index.name, len(index)) == ("mine", 2)


@pytest.mark.parametrize("layout", ["auto", "files"])
def test_a_second_start_opens_what_the_first_has_kept_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    root = tmp_path / "data"
    make_demo_dataset(root, train=2, test=2)
    labels = root / ANNOTATIONS
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"][2] = 0
    labels.write_text(json.dumps(content))
    split = settings.Split("test", ANNOTATIONS, "test") if layout == "files" else settings.Split("test")
    data = settings.Data(root=str(root), layout=layout, test=split)  # type: ignore[arg-type]
    caplog.set_level(logging.INFO)
    first = open_split(data, "test")
    said = [record.getMessage() for record in caplog.records]
    assert any("boxes without width or height" in text for text in said)
    assert any("data.test: COCO" in text for text in said) == (layout == "auto")
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_split", None)  # nothing is read
        patch.setattr(datasets, "locate", None)
        second = open_split(data, "test")
        assert datasets.has_test_split(data)
    assert [record.getMessage() for record in caplog.records] == said
    assert (second.fingerprint, second.path(1)) == (first.fingerprint, first.path(1))
    labels.write_text(json.dumps({**content, "annotations": content["annotations"][1:]}))
    assert len(open_split(data, "test").stated.labels) == len(first.stated.labels) - 1  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "open_kept", None)
        assert len(check_split(data, "test")) == 2  # judges the files themselves
        open_split(dataclasses.replace(data, cache=False), "test")


@pytest.mark.parametrize("named", [False, True])
def test_of_images_elsewhere_their_own_folders_alone_are_searched_and_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """The folder that all images lie in may be that of all users, or `/`."""
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    root, other = tmp_path / "me" / "set", tmp_path / "disk"
    draw(other / "images" / "a.jpg")
    label = write(other / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    draw(tmp_path / "nobody's" / "gone.jpg")
    data = settings.Data(root=str(root))
    if named:
        write(root / "labels" / "a.txt", label.read_text())
        split = settings.Split("train", annotations=str(root / "labels"), images=str(other / "images"))
        data, label = dataclasses.replace(data, train=split), root / "labels" / "a.txt"
    else:
        write(root / "data.yaml", "train: train.txt\nnames: [cat]")
        write(root / "train.txt", f"{other}/images/a.jpg\n")
    searched: list[Path] = []
    monkeypatch.setattr(image_checks, "present_files", lambda folder: searched.append(folder) or set())
    first = open_split(data, "train")
    assert (first.image_root, first.file_name(0), len(first.boxes)) == (tmp_path, "disk/images/a.jpg", 1)
    watched = [path for path in datasets.files_of(data, "train", datasets.locate(data, "train")) if path.is_dir()]
    assert watched
    assert all(path.is_relative_to(root) or path.is_relative_to(other) for path in watched)
    label.write_text("0 0.5 0.5 0.5 0.5\n0 0.2 0.2 0.2 0.2\n")
    assert len(open_split(data, "train").boxes) == 2
    if not named:
        write(root / "train.txt", f"{other}/images/a.jpg\ngone.jpg\n")
        with pytest.raises(UserError, match=r"images without a file"):
            open_split(data, "train")
        assert searched
        assert all(path.is_relative_to(root) or path.is_relative_to(other) for path in searched)


def test_a_class_list_above_the_named_folders_is_watched_even_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    root = tmp_path / "some" / "set"
    draw(root / "images" / "a.jpg")
    write(root / "labels" / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    split = settings.Split("train", annotations=str(root / "labels"), images=str(root / "images"))
    data = settings.Data(root=str(root), train=split)
    assert open_split(data, "train").category_names == ["0"]
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_split", None)  # nothing is read
        open_split(data, "train")
    write(root.parent / "classes.txt", "cat\n")
    assert open_split(data, "train").category_names == ["cat"]
    write(root.parent / "classes.txt", "dog\n")
    assert open_split(data, "train").category_names == ["dog"]


def test_ranks_map_what_one_of_them_has_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "LEAST", 0)
    monkeypatch.setattr(index_cache, "SETTLED", -1e12)
    make_demo_dataset(tmp_path / "data", train=2, test=2)
    data = settings.Data(root=str(tmp_path / "data"), layout="auto")

    def work(rank: int, _: torch.device) -> tuple[str, bool]:
        index = open_split(data, "test")
        return index.fingerprint, isinstance(index.boxes.base, np.memmap)

    first, second = by_ranks(2, work)
    assert (first[0], first[1], second[1]) == (second[0], False, True)
    assert by_ranks(2, work) == [(first[0], True)] * 2


def test_files_that_are_not_named_are_asked_for_where_they_are_used(tmp_path: Path) -> None:
    make_demo_dataset(tmp_path, train=1, test=2)
    test = settings.Split("test", annotations=ANNOTATIONS, images="test")
    data = settings.Data(root=str(tmp_path), layout="files", test=test)
    assert len(open_split(data, "test")) == 2
    with pytest.raises(UserError, match=r"data\.train: no files are named; give data\.train\.annotations and"):
        open_split(data, "train")


def test_paths_of_a_configuration_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_demo_dataset(tmp_path / "here", train=1, test=2)
    split = settings.Split("mine", annotations=f"~/here/{ANNOTATIONS}", images="test")
    data = settings.Data(root="~/here", layout="files", test=split)
    index = open_split(data, "test")
    assert len(index) == 2
    assert index.annotation_file == tmp_path / "here" / ANNOTATIONS
    assert index.image_root == tmp_path / "here" / "test"
    assert root_of("~/runs/it", "name") == tmp_path / "runs" / "it"


@pytest.mark.parametrize("evaluate", [False, True])
def test_the_splits_of_a_training_are_held_against_each_other(tmp_path: Path, evaluate: bool) -> None:
    make_demo_dataset(tmp_path, train=3, test=2)
    file = tmp_path / ANNOTATIONS
    data = settings.Data(
        root=str(tmp_path),
        train=settings.Split("train", annotations="annotations/instances_train.json", images="train"),
        test=settings.Split("test", annotations=ANNOTATIONS, images="test"),
    )
    train, test = open_training_splits(data, evaluate=evaluate)
    assert (test is not None) == evaluate
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["id"] = 100 - category["id"]
    for annotation in content["annotations"]:
        annotation["category_id"] = 100 - annotation["category_id"]
    file.write_text(json.dumps(content))
    _, renumbered = open_training_splits(data, evaluate=evaluate)
    if evaluate:
        assert test is not None
        assert renumbered is not None
        assert renumbered.category_names == train.category_names
        np.testing.assert_array_equal(renumbered.labels, test.labels)
        np.testing.assert_array_equal(renumbered.category_ids, 100 - test.category_ids)
    del content["categories"][0]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"cannot be used|its classes are not those of .*instances_train\.json"):
        open_training_splits(data, evaluate=True)
    content["annotations"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"its classes are not those of .*instances_train\.json"):
        open_training_splits(data, evaluate=evaluate)
    file.unlink()
    if not evaluate:  # a training alone needs no test split
        assert open_training_splits(data, evaluate=False)[1] is None


def test_how_many_images_are_not_trained_on_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_demo_dataset(tmp_path, train=6, test=2)
    file, _ = demo_files(tmp_path, "train")
    content = json.loads(file.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] == 3]
    file.write_text(json.dumps(content))
    splits = {
        which: settings.Split(which, annotations=f"annotations/instances_{which}.json", images=which)
        for which in ("train", "test")
    }
    with caplog.at_level(logging.INFO):
        index, _ = open_training_splits(settings.Data(root=str(tmp_path), **splits), evaluate=False)
    assert len(index) == 1
    text = "instances_train.json: 5 of 6 images have no object and are left out (data.keep_empty=true trains on them"
    assert sum(text in message for message in caplog.messages) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO):
        open_training_splits(settings.Data(root=str(tmp_path), keep_empty=True, **splits), evaluate=False)
    assert ["5 of 6 images have no object and are trained on as background" in one for one in caplog.messages] == [True]


def halve(content: dict[str, Any]) -> None:
    content["annotations"] = content["annotations"][::2]


def write_ids_as_text(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])


def opened_by_two(folder: Path, change: Callable[[dict[str, Any]], object] | str) -> list[int | str]:
    """The number of objects that each of two ranks finds, where the second has another annotation file."""
    for rank in range(2):
        make_demo_dataset(folder / str(rank), train=1, test=4)
    path = folder / "1" / ANNOTATIONS
    if isinstance(change, str):
        path.write_text(change)
    else:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    split = settings.Split("mine", annotations=ANNOTATIONS, images="test")

    def work(rank: int, _: object) -> int:
        return len(open_split(settings.Data(root=str(folder / str(rank)), test=split), "test").boxes)

    begin = time.monotonic()
    found = by_ranks(2, work)
    assert time.monotonic() - begin < 30.0  # long before the limit of a minute
    return found


def test_ranks_with_other_annotations_are_refused(tmp_path: Path) -> None:
    first, second = opened_by_two(tmp_path, halve)
    assert first == second
    assert "rank 1 and rank 0 disagree on data.test: annotations is " in str(first)


def test_annotations_that_one_rank_cannot_read_end_all_with_its_message(tmp_path: Path) -> None:
    first, second = opened_by_two(tmp_path, "{")
    assert str(tmp_path / "1" / ANNOTATIONS) in str(second)
    assert first == f"rank 1: {second}"


def test_what_one_rank_alone_has_to_repair_holds_up_nobody(tmp_path: Path) -> None:
    first, second = opened_by_two(tmp_path, write_ids_as_text)
    assert first == second
    assert isinstance(first, int)
