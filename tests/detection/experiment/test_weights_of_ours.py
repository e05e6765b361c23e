"""`backbone.weights` of a configuration takes the files that the tools leave: the backbone in them, to the bit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones import InputFormat
from backbones.common.errors import UserError
from detection.config import Config
from detection.config_file import change_config, load_config
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.networks.box_heads import C4BoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN
from detection.training.artifacts import save_artifact
from tests.detection.pipeline import MINIATURE

ODD = {
    "rpn": InputFormat("bgr", 255.0, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    "fastrcnn": InputFormat("rgb", 1.0, (0.5,) * 3, (0.25,) * 3),
}
KINDS = {"rpn.pt": ("rpn",), "fastrcnn.pt": ("fastrcnn",), "detector.pt": ("rpn", "fastrcnn")}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("config") / "miniature.yaml"
    path.write_text(MINIATURE)
    return load_config(path)


@pytest.fixture(scope="module")
def networks(config: Config) -> dict[str, RPN | FastRCNN]:
    torch.manual_seed(3)
    return {"rpn": build_rpn(config), "fastrcnn": build_fast_rcnn(config, 2)}


@pytest.fixture
def folder(tmp_path: Path, networks: dict[str, RPN | FastRCNN]) -> Path:
    for name, held in KINDS.items():
        save_artifact(
            tmp_path / name,
            Path(name).stem,
            networks={network: networks[network].state_dict() for network in held},
            input_formats={network: ODD[network].to_dict() for network in held},
        )
    return tmp_path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("name", "source"), [("rpn.pt", "rpn"), ("fastrcnn.pt", "fastrcnn"), ("detector.pt", "fastrcnn")]
)
def test_an_rpn_starts_from_each_of_them(
    config: Config, networks: dict[str, RPN | FastRCNN], folder: Path, name: str, source: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    built = build_rpn(change_config(config, [f"backbone.weights='{folder / name}'"]))
    network = networks[source]
    backbone = network.backbone if isinstance(network, RPN) else network.trunk
    assert same(built.backbone.state_dict(), backbone.state_dict())
    assert built.backbone.input_format == ODD[source]
    assert "left out, as no part of the network: " in caplog.text
    assert ("rpn" in built.backbone.provenance["weights"]["left_out"]) == (name == "detector.pt")


@pytest.mark.parametrize("name", ["fastrcnn.pt", "detector.pt"])
def test_a_fast_rcnn_starts_from_those_that_have_a_whole_backbone(
    config: Config, networks: dict[str, RPN | FastRCNN], folder: Path, name: str
) -> None:
    built = build_fast_rcnn(change_config(config, [f"backbone.weights='{folder / name}'"]), 5)
    network = networks["fastrcnn"]
    assert isinstance(network, FastRCNN)
    assert same(built.trunk.state_dict(), network.trunk.state_dict())
    assert isinstance(built.box_head, C4BoxHead)
    assert isinstance(network.box_head, C4BoxHead)
    assert same(built.box_head.state_dict(), network.box_head.state_dict())
    assert "box_head" not in built.trunk.provenance["weights"]["left_out"]
    assert built.trunk.input_format == ODD["fastrcnn"]


def test_a_fast_rcnn_is_told_that_an_rpn_has_no_conv5(config: Config, folder: Path) -> None:
    with pytest.raises(UserError, match=r"rpn\.pt do not fit[^$]*missing \(\d+\): layer4\.0\.conv1\.weight"):
        build_fast_rcnn(change_config(config, [f"backbone.weights='{folder / 'rpn.pt'}'"]), 5)
