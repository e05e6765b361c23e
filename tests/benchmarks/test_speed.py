"""The speed benchmarks run, small: every step and part of either side can be called."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from backbones.common.errors import UserError
from backbones.grouped.implementations import BlockDiagonal
from benchmarks import detector, grouped_convolution, pointwise_convolution, roi_align, training_loop
from benchmarks.common import OURS, PEER, Timing
from benchmarks.detector import in_precision, parts, steps
from benchmarks.roofline import operations
from benchmarks.scene import make_scene
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


def test_throughput_tells_operations_and_their_share_of_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "peak", lambda device, dtype: 2e9)
    square = torch.ones(100, 100)
    work = {"a product": {OURS: lambda: square @ square, PEER: lambda: (square @ square, square @ square)}}
    measured = {"a product": {OURS: Timing((0.002,)), PEER: Timing((0.004,))}}
    content = detector.throughput_of(work, measured, torch.float32, torch.device("cpu"))
    assert content["rows"] == [
        ["a product: ours", "500.00", "0.002 G", "50%"],
        ["a product: torchvision", "250.00", "0.004 G", "50%"],
    ]
    assert len(content["columns"]) == 4  # memory is a GPU's


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(("of_input", "passes"), [(True, 3), (False, 2)])
def test_operations_of_a_convolution_and_its_gradients(groups: int, of_input: bool, passes: int) -> None:
    x = torch.randn(2, 16, 10, 12, requires_grad=of_input)
    weight = torch.randn(16, 16 // groups, 3, 3, requires_grad=True)

    def step() -> None:
        torch.nn.functional.conv2d(x, weight, None, 1, 1, 1, groups).sum().backward()

    assert operations(step) == passes * 2 * (2 * 16 * 10 * 12) * (16 // groups) * 9


def test_low_precision_is_autocast_s() -> None:
    x = torch.ones(2, 2)
    work = {"a product": {OURS: lambda: x @ x}}
    cpu = torch.device("cpu")
    assert in_precision(work, torch.bfloat16, cpu)["a product"][OURS]().dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert in_precision(work, torch.float32, cpu)["a product"][OURS]().dtype == torch.float32  # type: ignore[attr-defined]


def test_grouped_convolutions_write_their_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "grouped.json"
    monkeypatch.setattr("sys.argv", ["grouped_convolution", "--quick", "--output", str(output)])
    assert grouped_convolution.main() == 0
    (content,) = json.loads(output.read_text())["tables"]
    assert content["columns"][1:] == ["library", "groups of 16", "groups of 32", "groups of 64"]
    assert len(content["rows"]) == 2 * 3


def test_grouped_convolutions_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = BlockDiagonal.weight_gradient
    monkeypatch.setattr(BlockDiagonal, "weight_gradient", lambda *arguments: right(*arguments) * 1.1)
    case = grouped_convolution.CASES[0]._replace(height=8, width=8)
    with pytest.raises(UserError, match="weight gradient: groups of 16 differs from the library"):
        grouped_convolution.compared(case, torch.float32, torch.device("cpu"))


def test_roi_align_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "roi_align.json"
    monkeypatch.setattr(roi_align, "CASES", (roi_align.Case(12, 2, 8, 9, 11, 4, True),))
    monkeypatch.setattr("sys.argv", ["roi_align", "--quick", "--output", str(output)])
    assert roi_align.main() == 0
    assert len(json.loads(output.read_text())["tables"][0]["rows"]) == 2


def test_roi_align_refuses_to_time_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    right = roi_align.roi_align
    monkeypatch.setattr(roi_align, "roi_align", lambda *arguments: right(*arguments) * 1.001)
    with pytest.raises(UserError, match="differs"):
        roi_align.compared(roi_align.Case(5, 1, 4, 6, 6, 2, False))


@pytest.mark.parametrize("benchmark", [pointwise_convolution, training_loop])
def test_small_benchmarks_run(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, output = torch.get_num_threads(), tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["benchmark", "--quick", "--output", str(output)])
    assert benchmark.main() == 0
    tables = json.loads(output.read_text())["tables"]
    assert all(len(row) == len(one["columns"]) for one in tables for row in one["rows"])
    assert torch.get_num_threads() == before


def test_implementations_of_a_pointwise_convolution_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pointwise_convolution.IMPLEMENTATIONS, "wrong", lambda x, w, b: torch.conv2d(x, w, b) * 1.001)
    with pytest.raises(UserError, match="wrong differs from conv2d"):
        pointwise_convolution.compared(pointwise_convolution.Case("small", 4, 5, 3, 3), 1)
