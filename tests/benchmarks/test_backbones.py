"""The backbones' benchmark, small: all implementations compute the same, and what does not is not timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from backbones.normalization import FrozenBatchNorm2d
from backbones.variants import find_variant
from benchmarks import backbones
from benchmarks.backbones import CASES, FOLDED, GROUPED, TIMM, WIDE, calibrated, implementations
from benchmarks.common import OURS, PEER

pytest.importorskip("timm")


@pytest.fixture
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    shallow = {name: find_variant(name, {"depths": (1, 1, 1, 1)}) for name in (GROUPED, WIDE)}
    monkeypatch.setattr(backbones, "NETWORKS", shallow)
    monkeypatch.setattr(backbones, "_SMALL", {(8, 224, 224): (3, 48, 48), (1, 608, 800): (1, 48, 64)})
    monkeypatch.setattr(backbones, "CLASSES", 10)


@pytest.mark.usefixtures("_shallow")
def test_it_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "CASES", (CASES[0], CASES[3]))
    output = tmp_path / "backbones.json"
    monkeypatch.setattr("sys.argv", ["backbones", "--quick", "--output", str(output)])
    assert backbones.main() == 0
    result = json.loads(output.read_text())
    comparison, ratios = result["tables"]
    assert len(comparison["rows"]) == 2 * (2 + 1)  # two networks; two cases, forward folded besides
    assert len(ratios["rows"]) == 2
    assert max(result["differences"].values()) < 1e-10
    forward, backward = list(result["seconds"].values())[:2]
    assert {who.split(", ", 1)[1] for who in forward} == {OURS, PEER, TIMM, FOLDED}
    assert {who.split(", ", 1)[1] for who in backward} == {OURS, PEER, TIMM}
    assert {"torch", "torchvision", "timm"} <= result["environment"]["versions"].keys()


@pytest.mark.usefixtures("_shallow")
def test_it_refuses_to_time_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(*arguments: object, **options: object) -> dict[str, nn.Module]:
        networks = implementations(*arguments, **options)  # type: ignore[arg-type]
        with torch.no_grad():
            networks[TIMM].layer3[0].conv2.weight.mul_(1.05)
        return networks

    monkeypatch.setattr(backbones, "CASES", CASES[1:3])
    monkeypatch.setattr(backbones, "implementations", disturbed)
    monkeypatch.setattr("sys.argv", ["backbones", "--quick"])
    with pytest.raises(UserError, match="do not compute the same"):
        backbones.main()


def test_the_peers_are_their_own_classes_and_frozen_where_ours_are() -> None:
    variant = find_variant(GROUPED, {"depths": (1, 1, 1, 1)})
    networks = implementations(variant, calibrated(variant), frozen=True)
    assert {name: type(network).__module__.split(".")[0] for name, network in networks.items()} == {
        OURS: "backbones",
        PEER: "torchvision",
        TIMM: "timm",
    }
    fixed = [{n for n, p in network.named_parameters() if not p.requires_grad} for network in networks.values()]
    assert fixed[0] == fixed[1] == fixed[2]
    assert {name.split(".")[0] for name in fixed[0]} == {"conv1", "layer1"}
    for network in networks.values():
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in networks[PEER].modules())


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    variant = find_variant(WIDE, {"depths": (1, 1, 1, 1)})
    with pytest.raises(UserError, match="pip install -r requirements-dev"):
        implementations(variant, {}, frozen=False)
