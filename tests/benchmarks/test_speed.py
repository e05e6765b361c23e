"""The speed benchmarks run, small: every step and part of either side can be called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import roi_align
from benchmarks.common import OURS, PEER
from benchmarks.detector import parts, steps
from benchmarks.scene import make_scene
from detection.errors import UserError
from tests.benchmarks.test_torchvision_peer import SIZE, config_of


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_every_step_and_part_runs_and_leaves_the_weights_as_they_are(repository: Path, preset: str) -> None:
    scene = make_scene(config_of(repository, preset), SIZE, torch.device("cpu"))
    networks = (scene.rpn, scene.fast_rcnn, scene.peer)
    before = [parameter.clone() for network in networks for parameter in network.parameters()]
    work = steps(scene) | parts(scene)
    assert len(work) == 3 + 2 + 2 + 4 + 4
    for what, functions in work.items():
        assert len(functions) >= 2
        assert PEER in functions
        results = {who: function() for who, function in functions.items()}
        if "forward + backward" in what and "trunk" not in what:
            ours, theirs = (results[who][0] for who in (OURS, PEER))  # the gradient of the map
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
    after = [parameter for network in networks for parameter in network.parameters()]
    assert all(torch.allclose(one, other, rtol=0, atol=1e-9) for one, other in zip(before, after, strict=True))
    assert not any(network.training for network in networks)


def test_roi_align_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "roi_align.json"
    monkeypatch.setattr(roi_align, "CASES", (roi_align.Case(12, 2, 8, 9, 11, 4),))
    monkeypatch.setattr("sys.argv", ["roi_align", "--quick", "--output", str(output)])
    assert roi_align.main() == 0
    assert len(json.loads(output.read_text())["tables"][0]["rows"]) == 2


def test_roi_align_refuses_to_time_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = roi_align.roi_align
    monkeypatch.setattr(roi_align, "roi_align", lambda *arguments: right(*arguments) * 1.001)
    with pytest.raises(UserError, match="differs"):
        roi_align.compared(roi_align.Case(5, 1, 4, 6, 6, 2))
