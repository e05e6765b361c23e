"""Which files a configuration means."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.demo import make_demo_dataset
from detection.experiment.datasets import open_split
from detection.experiment.run_folder import root_of

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
