"""Which precision follows from what, and that a measured choice is made once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import ToyBatch, ToyNetwork, toy_batches

from detection import config as settings
from detection.training import precision, precision_trial
from detection.training.checkpoints import Checkpointer, TrainingState
from detection.training.precision import Precision, judge, remembered, stated_precision
from detection.training.precision_trial import decided, measure_step
from detection.training.stage import Stage

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("asked", "device", "has_bf16", "expected"),
    [
        ("fp32", CPU, True, "fp32"),
        ("bf16", CPU, True, "bf16"),
        ("bf16", CPU, False, "fp32"),
        ("fp16", CPU, True, "fp32"),
        ("auto", CPU, False, "fp32"),
        ("auto", CPU, True, None),
        ("auto", CUDA, True, "fp32"),
        ("bf16", CUDA, False, "bf16"),
        ("fp16", CUDA, False, "fp16"),
    ],
)
def test_what_follows_without_a_measurement(
    asked: Any, device: torch.device, has_bf16: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: has_bf16)
    stated = stated_precision(settings.Runtime(precision=asked), device)
    assert (None if stated is None else stated.name) == expected


def test_a_deterministic_run_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    stated = stated_precision(settings.Runtime(precision="auto", deterministic=True), CPU)
    assert stated is not None
    assert stated.name == "fp32"


@pytest.mark.parametrize(
    ("bf16", "error", "expected"),
    [(0.5, 0.01, "bf16"), (0.9, 0.0, "fp32"), (0.5, 0.2, "fp32"), (0.5, float("nan"), "fp32")],
)
def test_the_faster_one_within_the_error_is_taken(bf16: float, error: float, expected: str) -> None:
    assert judge(1.0, bf16, error, 0.05, "an image", "probabilities differ by").name == expected


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Precision, int]]:
    """measured(about) → the choice, and how often it has been measured so far."""
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    calls: list[None] = []

    def measure() -> tuple[Precision, Mapping[str, float]]:
        calls.append(None)
        return Precision("bf16", "faster"), {"fp32_seconds": 2.0, "bf16_seconds": 1.0}

    def ask(about: Mapping[str, Any]) -> tuple[Precision, int]:
        return remembered(about, measure), len(calls)

    return ask


def test_a_choice_is_measured_once_for_what_it_depends_on(
    measured: Callable[..., tuple[Precision, int]], tmp_path: Path
) -> None:
    assert measured({"threads": 1, "image": (1, 3, 600, 800)}) == (Precision("bf16", "faster"), 1)
    assert measured({"threads": 1, "image": (1, 3, 600, 800)}) == (Precision("bf16", "faster"), 1)
    assert measured({"threads": 2, "image": (1, 3, 600, 800)})[1] == 2
    content = json.loads((tmp_path / "cache" / "precision.json").read_text())
    assert [choice["for"]["threads"] for choice in content["choices"]] == [1, 2]
    assert content["choices"][0]["measured"] == {"fp32_seconds": 2.0, "bf16_seconds": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"format": 2, "choices": []}',
        b'{"format": 1, "choices": [{"for": {"threads": 1}}]}',
    ],
)
def test_a_damaged_file_is_made_anew(
    content: bytes, measured: Callable[..., tuple[Precision, int]], tmp_path: Path
) -> None:
    file = tmp_path / "cache" / "precision.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert measured({"threads": 1})[1] == 1
    assert measured({"threads": 1})[1] == 1
    assert len(json.loads(file.read_text())["choices"]) == 1


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_nothing_else(
    measured: Callable[..., tuple[Precision, int]], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert measured({"threads": 1}) == (Precision("bf16", "faster"), 1)
    assert measured({"threads": 1}) == (Precision("bf16", "faster"), 2)


def test_a_measured_step_leaves_the_network_and_the_random_state_as_they_are() -> None:
    torch.manual_seed(0)
    network = ToyNetwork().eval()
    before = copy.deepcopy(network.state_dict())
    generator = torch.get_rng_state()
    batch = next(toy_batches(global_batch=4)(0))
    torch.set_rng_state(generator)
    chosen, numbers = measure_step(network, batch, CPU)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert chosen.name in ("fp32", "bf16")
    assert 0 < numbers["error"] < 0.1, "the same dropout in both, and another rounding"


def make_stage(folder: Path, asked: Any) -> Stage:
    def batches(_training: settings.Training) -> Callable[[int], Iterator[ToyBatch]]:
        return toy_batches(global_batch=4)

    return Stage(
        name="toy", network=ToyNetwork(), batches=batches, training=settings.Training(),  # type: ignore[arg-type]
        runtime=settings.Runtime(precision=asked), device=CPU, images=4, root=folder, folder=folder, identity={},
        evaluate=None, best_figure=None, save_config=lambda: None, save=lambda outcome: None, files=(),
    )  # fmt: skip


def test_a_resumed_run_keeps_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (precision, precision_trial):
        monkeypatch.setattr(module, "has_bf16", lambda: True)
    stage, chosen = decided(make_stage(tmp_path, "auto"))
    assert chosen.name == stage.runtime.precision == "fp32", "a small network is not measured"
    stage, chosen = decided(make_stage(tmp_path, "auto"), "bf16")
    assert chosen.name == stage.runtime.precision == "bf16"
    assert decided(make_stage(tmp_path, "fp32"), "bf16")[1].name == "fp32", "what is stated is obeyed"
    monkeypatch.setattr(precision_trial, "has_bf16", lambda: False)
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    assert decided(make_stage(tmp_path, "auto"), "bf16")[1].name == "fp32"


def test_a_large_network_is_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    for module in (precision, precision_trial):
        monkeypatch.setattr(module, "has_bf16", lambda: True)
    monkeypatch.setattr(precision, "LEAST_WORK", 0)
    steps: list[None] = []

    def measure(*_: Any) -> tuple[Precision, Mapping[str, float]]:
        steps.append(None)
        return Precision("bf16", "faster"), {}

    monkeypatch.setattr(precision_trial, "measure_step", measure)
    for _ in range(2):
        stage, chosen = decided(make_stage(tmp_path, "auto"))
        assert chosen == Precision("bf16", "faster")
        assert stage.runtime.precision == "bf16"
    assert len(steps) == 1
    about = json.loads((tmp_path / "precision.json").read_text())["choices"][0]["for"]
    assert about["work"] == "training, toy"
    assert about["threads"] == torch.get_num_threads()
    assert {"processor", "versions", "network", "image"} <= set(about)


def test_a_checkpoint_holds_the_precision(tmp_path: Path) -> None:
    network = ToyNetwork()
    state = TrainingState(network, torch.optim.SGD(network.parameters(), 0.1), step=3)
    assert Checkpointer(tmp_path, {}).stored_precision() is None
    Checkpointer(tmp_path, {}, precision="bf16").save(state)
    assert Checkpointer(tmp_path, {}).stored_precision() == "bf16"
