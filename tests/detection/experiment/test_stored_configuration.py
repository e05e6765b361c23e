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
