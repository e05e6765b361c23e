"""Two networks with a pyramid each, by the same commands as the others: trained, loaded, measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from detection import Detector
from detection.data.demo import make_demo_dataset
from tests.detection.pipeline import (
    MINIATURE,
    arguments_for,
    assert_same_weights,
    kill_before_second_checkpoint,
    stored_weights,
    tool,
)

PYRAMID = ["backbone.features=pyramid", "backbone.pyramid_width=16", "rpn.anchor_sizes=[16,24,32,48,64]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_demo_dataset(folder, train=8, test=4)
    return folder


@pytest.mark.parametrize(("head", "norm", "finest"), [("two_layers", "none", 2), ("four_convolutions", "group", 3)])
def test_the_commands_train_and_measure_pyramids(data: Path, tmp_path: Path, head: str, norm: str, finest: int) -> None:
    config = tmp_path / "miniature.yaml"
    config.write_text(MINIATURE)
    changes = [*PYRAMID, f"fast_rcnn.box_head={head}", f"backbone.pyramid_norm={norm}", "fast_rcnn.box_head_width=32"]
    changes += ["fast_rcnn.box_head_channels=16", f"backbone.pyramid_finest={finest}"]
    changes += ["rpn.anchor_sizes=[16,32,48,64]"] if finest == 3 else []
    run = tmp_path / "run"
    for stage in ("rpn", "fastrcnn"):
        tool(f"train_{stage}", *arguments_for(config, data, run, changes))
    expected = stored_weights(run / "detector.pt")
    levels = {name.split(".")[3] for name in expected if name.startswith("rpn.backbone.lateral.")}
    assert levels == {f"p{level}" for level in range(finest, 6)}
    assert any(name.startswith("fastrcnn.trunk.smooth.p5") for name in expected)
    assert "Average Precision" in tool("eval_coco", "--weights", run / "detector.pt").stdout
    detector = Detector.load(run / "detector.pt", "cpu")
    assert detector(next((data / "test").iterdir())).boxes.shape[1] == 4


def test_killed_or_as_two_processes_a_pyramid_ends_in_the_same_weights(data: Path, tmp_path: Path) -> None:
    """Killed and resumed: to the bit; as two processes: to rounding."""
    config = tmp_path / "miniature.yaml"
    config.write_text(MINIATURE)
    changes = [*PYRAMID, "fast_rcnn.box_head=two_layers", "fast_rcnn.box_head_width=32", "backbone.pyramid_norm=group"]
    parts = ["rpn.training.images_per_device=2", "fast_rcnn.training.images_per_device=2"]
    short = [f"{network}.training.{key}" for network in ("rpn", "fast_rcnn") for key in ("steps=2", "milestones=[1]")]
    short += [f"{network}.training.checkpoint_every=1" for network in ("rpn", "fast_rcnn")]
    for stage, name in (("rpn", "rpn.pt"), ("fastrcnn", "fastrcnn.pt")):
        command, first = f"train_{stage}", [] if stage == "rpn" else ["--rpn", tmp_path / "whole/rpn.pt"]
        for run, processes, more in (("whole", 1, []), ("parallel", 2, parts)):
            arguments = [*arguments_for(config, data, tmp_path / run, [*changes, *short, *more]), *first]
            tool(command, *arguments, processes=processes)
            assert_same_weights(tmp_path / "whole" / name, tmp_path / run / name, atol=3e-6, rtol=1e-4)
        killed = [*arguments_for(config, data, tmp_path / "killed", [*changes, *short]), *first]
        kill_before_second_checkpoint(command, *killed)
        tool(command, *killed, "--resume")
        assert_same_weights(tmp_path / "whole" / name, tmp_path / "killed" / name)


def test_what_does_not_go_together_is_said(data: Path, tmp_path: Path) -> None:
    config = tmp_path / "miniature.yaml"
    config.write_text(MINIATURE)
    said = tool("train_rpn", *arguments_for(config, data, tmp_path / "run", PYRAMID[:1]), check=False)
    assert said.returncode == 1
    assert "conv5 runs on C4; with backbone.features=pyramid take two_layers or four_convolutions" in said.stderr
    assert "2 sizes for 5 levels of a pyramid" in said.stderr
