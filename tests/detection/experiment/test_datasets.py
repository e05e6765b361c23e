"""Which files a configuration means."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.demo import make_demo_dataset
from detection.experiment.datasets import open_split
from detection.experiment.run_folder import root_of
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
