"""Trained networks' files: what a stranger may have put into one, with a right checksum on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones.common.errors import UserError
from detection.config_file import load_config
from detection.experiment.builders import build_rpn
from detection.experiment.model_files import Categories, Trained, load_trained, save_trained
from detection.training.artifacts import load_artifact, save_artifact
from tests.detection.pipeline import MINIATURE

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "miniature.yaml").write_text(MINIATURE)
    config = load_config(folder / "miniature.yaml")
    torch.manual_seed(0)
    save_trained(folder / "rpn.pt", Trained(config, Categories((3, 7), ("cat", "dog")), rpn=build_rpn(config)))
    return folder / "rpn.pt"


def changed(trained: Path, path: Path, change: Change) -> Path:
    content = load_artifact(trained, "rpn")
    change(content)
    content.pop("format"), content.pop("version")
    save_artifact(path, content.pop("kind"), **content)
    return path


def test_an_unchanged_file_loads(trained: Path, tmp_path: Path) -> None:
    loaded = load_trained(changed(trained, tmp_path / "x.pt", lambda content: None), "rpn")
    assert loaded.categories == Categories((3, 7), ("cat", "dog"))
    assert loaded.rpn is not None
    assert not loaded.rpn.training


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.pop("config"), "an entry is missing or of the wrong kind"),
        (lambda c: c.update(config=[1]), "expected keys and values"),
        (lambda c: c.update(config={1: 2}), "entry is missing or of the wrong kind|unknown key"),
        (lambda c: c["config"].update(sed=1), "did you mean 'seed'"),
        (lambda c: c.update(categories=5), "of the wrong kind"),
        (lambda c: c["categories"].update(names=["cat"]), "have not a name each"),
        (lambda c: c.update(networks=None), "of the wrong kind"),
        (lambda c: c["networks"].clear(), r"its networks are \[\]"),
        (lambda c: c["networks"].update(rpn={"a": 1}), "cannot be built"),
        (lambda c: c["networks"]["rpn"].popitem(), r"do not fit .* in 1 place\(s\): .*: absent in the file, \("),
        (lambda c: c["networks"]["rpn"].update(x=torch.zeros(1)), r"x: \(1,\) in the file, absent by its config"),
        (lambda c: c["config"]["backbone"].update(planes=16), r"do not fit the network that its configuration names"),
        (lambda c: c["config"]["backbone"].update(name="vgg"), "unknown network 'vgg'"),
        (lambda c: c.update(input_formats={}), "of the wrong kind"),
        (lambda c: c["input_formats"]["rpn"].update(mean=["x", 1, 2]), "of the wrong kind"),
        (lambda c: c["input_formats"]["rpn"].pop("mean"), "needs exactly the keys"),
    ],
)
def test_strange_contents_are_refused_in_words(trained: Path, tmp_path: Path, change: Change, part: str) -> None:
    path = changed(trained, tmp_path / "x.pt", change)
    with pytest.raises(UserError, match=part) as caught:
        load_trained(path, "rpn")
    assert "x.pt" in str(caught.value) or "vgg" in str(caught.value) or "exactly the keys" in str(caught.value)


@pytest.mark.parametrize(
    "numbers",
    [
        {"planes": 10**9},
        {"planes": 200_000},
        {"stem_width": 10**7},
        {"base_width": 10**18},
        {"planes": 4096, "cardinality": 4096, "base_width": 4096},
        {"planes": 4096},
    ],
)
def test_a_configuration_cannot_make_it_take_any_memory(trained: Path, tmp_path: Path, numbers: dict[str, int]) -> None:
    """200,000 planes are terabytes of weights, and so are the largest numbers that are in range."""
    path = changed(trained, tmp_path / "x.pt", lambda content: content["config"]["backbone"].update(numbers))
    with pytest.raises(UserError, match=r"cannot be built|do not fit|out of range: from 1 to 4096|more than 1048576"):
        load_trained(path, "rpn")


def test_a_configuration_cannot_make_it_build_for_ever(trained: Path, tmp_path: Path) -> None:
    path = changed(trained, tmp_path / "x.pt", lambda c: c["config"]["backbone"].update(depths=[1, 1, 10**9, 1]))
    with pytest.raises(UserError, match=r"depths: 1000000000 is out of range"):
        load_trained(path, "rpn")
