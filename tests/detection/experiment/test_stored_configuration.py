"""A configuration that comes within a file of ours: it says what is looked at, and never where anything is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from backbones.common.errors import UserError
from detection import config as settings
from detection.config_file import load_config
from detection.experiment.stored_configuration import change_stored_config, with_precision_for_inference
from tests.detection.pipeline import REPOSITORY


@pytest.fixture
def demo() -> settings.Config:
    config = load_config(REPOSITORY / "configs/demo.yaml")
    return dataclasses.replace(config, output="../../../elsewhere", name="../../other")


def test_what_is_written_goes_beside_the_file_or_where_the_command_line_says(demo: settings.Config) -> None:
    assert change_stored_config(demo, Path("given/rpn.pt"), []).output == "given"
    assert change_stored_config(demo, Path("given/rpn.pt"), ["output='there'"]).output == "there"


def test_a_demo_is_read_where_it_is_and_not_drawn(demo: settings.Config) -> None:
    data = change_stored_config(demo, Path("x.pt"), ["data.root='mine'"]).data
    assert (data.root, data.layout) == ("mine", "files")
    assert (data.test.annotations, data.test.images) == ("annotations/instances_test.json", "test")
    assert change_stored_config(demo, Path("x.pt"), ["data.layout=coco"]).data.layout == "coco"


def test_paths_of_the_command_line_are_relative_to_where_it_is_typed(
    demo: settings.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = ["data.test.annotations=it's mine.json", "data.test.images=/whole/path"]
    test = change_stored_config(demo, Path("x.pt"), changes).data.test
    assert (test.annotations, test.images) == (str(tmp_path / "it's mine.json"), "/whole/path")
    rooted = change_stored_config(demo, Path("x.pt"), [*changes, "data.root=there"]).data
    assert (rooted.root, rooted.test.annotations) == ("there", "it's mine.json")


def test_paths_of_the_command_line_may_begin_with_the_home_folder(
    demo: settings.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    changes = ["data.test.annotations=~/a.json", "data.test.images='~/images'"]
    test = change_stored_config(demo, Path("x.pt"), changes).data.test
    assert (test.annotations, test.images) == (str(tmp_path / "a.json"), str(tmp_path / "images"))


@pytest.fixture
def divided(demo: settings.Config) -> settings.Config:
    """As tools/train.py fits it to a folder in one piece."""
    data = settings.Data(root="mine", layout="auto", format="yolo", split=settings.Division(test=0.2, seed=7))
    return dataclasses.replace(demo, data=data)


def test_another_data_set_is_used_as_a_whole_and_its_format_found_out(
    divided: settings.Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = change_stored_config(divided, Path("x.pt"), ["data.root=other"]).data
    assert (data.split.test, data.test.name, data.format) == (None, "all", "auto")
    assert "a set in one piece in other is used as a whole" in caplog.text
    assert "data.split.test=0.2 data.split.seed=7" in caplog.text
    files = ["data.test.annotations=/there/a.json", "data.test.images=/there/images"]
    data = change_stored_config(divided, Path("x.pt"), files).data
    assert (data.split.test, data.test.annotations, data.format) == (None, "/there/a.json", "auto")
    labels = settings.Split(annotations="labels.csv", images="images")
    named = dataclasses.replace(divided, data=dataclasses.replace(divided.data, layout="files", train=labels))
    data = change_stored_config(named, Path("x.pt"), ["data.root=other"]).data
    assert (data.split.test, data.test.annotations, data.test.images) == (None, "labels.csv", "images")


def test_the_images_of_the_training_stay_divided(divided: settings.Config, tmp_path: Path) -> None:
    def kept(*changes: str, of_same_data: bool = False, config: settings.Config = divided) -> bool:
        data = change_stored_config(config, Path("x.pt"), changes, of_same_data=of_same_data).data
        return (data.split.test, data.format) == (0.2, "yolo")

    assert kept()
    assert kept("data.root=./mine")
    assert kept(f"data.root={Path('mine').absolute()}")
    assert kept("data.test.limit=3")
    assert kept("data.root=other", of_same_data=True)
    assert not kept("data.root=other")
    assert kept("data.root=other", "data.split.test=0.2", "data.format=yolo")
    labels = settings.Split(annotations=str(tmp_path / "labels"))
    elsewhere = dataclasses.replace(divided, data=dataclasses.replace(divided.data, train=labels))
    assert change_stored_config(elsewhere, Path("x.pt"), ["data.root=other"]).data.split.test == 0.2


@pytest.mark.parametrize(
    "change",
    [
        "rpn.anchor_sizes=[8]",
        "rpn.anchor_offset=0",
        "backbone.planes=4",
        "backbone.pyramid_width=8",
        "fast_rcnn.pooling=max",
        "fast_rcnn.box_head=two_layers",
        "fast_rcnn.cascade=[0.6]",
    ],
)
def test_values_that_are_fixed_by_training_cannot_be_changed(demo: settings.Config, change: str) -> None:
    with pytest.raises(
        UserError, match=rf"x\.pt: these values are fixed by training.*{change.split('=')[0]}: .*asked for"
    ):
        change_stored_config(demo, Path("x.pt"), [change])


def test_inference_chooses_its_precision_on_a_cpu_and_keeps_it_on_a_gpu(demo: settings.Config) -> None:
    stored = dataclasses.replace(demo, runtime=settings.Runtime(precision="fp32", device="cpu"))
    assert change_stored_config(stored, Path("x.pt"), []).runtime.precision == "auto"
    assert change_stored_config(stored, Path("x.pt"), ["runtime.precision=bf16"]).runtime.precision == "bf16"
    assert change_stored_config(stored, Path("x.pt"), ["runtime.precision=fp32"]).runtime.precision == "fp32"
    kept = with_precision_for_inference(
        settings.Config(runtime=settings.Runtime(precision="bf16")), torch.device("cuda")
    )
    assert kept.runtime.precision == "bf16"
