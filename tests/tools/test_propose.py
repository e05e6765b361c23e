"""propose.py: what a file that it is given says of places decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detection.data.proposal_store import ProposalStore
from tests.detection.altered_files import altered
from tests.detection.pipeline import tool


def with_config(file: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of an rpn.pt or detector.pt with another configuration in it."""
    return altered(file, path, lambda content: change(content["config"]))


def test_it_writes_beside_the_weights_whatever_these_say(networks: Path, tmp_path: Path) -> None:
    names = {"output": str(tmp_path / "away"), "name": "../../x"}
    file = with_config(networks / "rpn.pt", tmp_path / "given" / "rpn.pt", lambda config: config.update(names))
    said = tool("propose", "--weights", file, "--split", "test").stdout
    assert Path(said.strip()) == tmp_path / "given/proposals/test.st"
    assert len(ProposalStore(tmp_path / "given/proposals/test.st")) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given"]
    tool("propose", "--weights", file, "--split", "test", "--output", tmp_path / "named")
    assert (tmp_path / "named/proposals/test.st").is_file()


def test_no_other_file_is_overwritten(networks: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pt"
    mine.write_bytes((networks / "rpn.pt").read_bytes())
    refused = tool("propose", "--weights", mine, "--split", "test", "--store", mine, check=False)
    assert refused.returncode == 1
    assert "mine.pt: exists already, and is no proposal store" in refused.stderr
    assert mine.read_bytes() == (networks / "rpn.pt").read_bytes()


def test_a_split_that_is_named_like_a_path_is_refused(networks: Path, tmp_path: Path) -> None:
    file = with_config(
        networks / "rpn.pt", tmp_path / "rpn.pt", lambda config: config["data"]["test"].update(name="../../x")
    )
    result = tool("propose", "--weights", file, "--split", "test", check=False)
    assert result.returncode == 1
    assert "data.test.name: '../../x' is to be part of files' names" in result.stderr


def test_no_demo_is_drawn_because_a_file_says_so(networks: Path, tmp_path: Path) -> None:
    """Neither where there is nothing, nor over what there is."""

    def demo(config: dict[str, Any]) -> None:
        config["data"].update(layout="demo", root=str(tmp_path / "data"))
        for split in ("train", "test"):
            config["data"][split].update(annotations=None, images=None)

    file = with_config(networks / "detector.pt", tmp_path / "detector.pt", demo)
    mine = tmp_path / "data/test/holiday.jpg"
    for tool_name in ("propose", "eval_coco"):
        result = tool(tool_name, "--weights", file, check=False)
        assert result.returncode == 1
        assert "instances_" in result.stderr
        assert not (tmp_path / "data").exists()
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    (tmp_path / "data/demo.json").write_text("{}")
    for tool_name in ("propose", "eval_coco"):
        assert tool(tool_name, "--weights", file, "--data", tmp_path / "data", check=False).returncode == 1
    assert [path.name for path in sorted((tmp_path / "data").rglob("*"))] == ["demo.json", "test", "holiday.jpg"]


@pytest.mark.parametrize("change", ["rpn.anchor_sizes=[16]", "rpn.channels=8"])
def test_values_that_are_fixed_by_training_cannot_be_changed(networks: Path, tmp_path: Path, change: str) -> None:
    result = tool("propose", "--weights", networks / "rpn.pt", "--output", tmp_path, change, check=False)
    assert result.returncode == 1
    assert f"{change.split('=')[0]}: " in result.stderr
    assert not (tmp_path / "proposals").exists()
