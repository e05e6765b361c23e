"""Checkpoints: what they hold, which one is taken, which are refused, which stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_run import ToyNetwork

from backbones.common.errors import UserError
from detection.training.artifacts import load_artifact, save_artifact
from detection.training.best import Best
from detection.training.checkpoints import Checkpointer, TrainingState
from detection.training.optimizer import build_optimizer
from detection.training.random_state import capture_random_state, preserved_random_state, restore_random_state


def new_state(seed: int = 0, **arguments) -> TrainingState:
    torch.manual_seed(seed)
    network = ToyNetwork()
    return TrainingState(network, build_optimizer(network, lr=0.1), **arguments)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with checkpoints of steps 10 and 20; the weights of each are those of seed 10 and 20."""
    checkpointer = Checkpointer(tmp_path, {"config": {"lr": 0.1}, "dataset": "abc"})
    for step in (10, 20):
        checkpointer.save(new_state(step, step=step))
    return tmp_path


def resume(folder: Path, provenance: dict | None = None, **arguments) -> tuple[TrainingState, list[str]]:
    warnings: list[str] = []
    state = new_state(99)
    checkpointer = Checkpointer(
        folder, provenance or {"config": {"lr": 0.1}, "dataset": "abc"}, warn=warnings.append, **arguments
    )
    assert checkpointer.resume(state)
    return state, warnings


def test_everything_comes_back(tmp_path: Path) -> None:
    state = new_state(
        5, step=7, evaluated=5, elapsed=12.5, best=Best("AP", value=0.25, step=3),
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0),
        averages={"names": ["a", "b"], "sums": torch.tensor([1.5, 2.5]), "images": 3},
    )  # fmt: skip
    for group in state.optimizer.param_groups:
        for parameter in group["params"]:
            state.optimizer.state[parameter]["momentum_buffer"].normal_()
    state.scaler.scale(torch.ones(()))  # the scale is made when first used
    Checkpointer(tmp_path, {}).save(state)
    expected = (torch.rand(3), np.random.rand(3), __import__("random").random())  # noqa: NPY002

    restored = new_state(99, best=Best("AP"), scaler=torch.amp.GradScaler("cpu"))
    restored.scaler.scale(torch.ones(()))
    assert Checkpointer(tmp_path, {}).resume(restored)
    for name, tensor in state.network.state_dict().items():
        assert torch.equal(restored.network.state_dict()[name], tensor)
    for ours, theirs in zip(state.optimizer.param_groups, restored.optimizer.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}
        for a, b in zip(ours["params"], theirs["params"], strict=True):
            assert torch.equal(
                state.optimizer.state[a]["momentum_buffer"], restored.optimizer.state[b]["momentum_buffer"]
            )
    assert (restored.step, restored.evaluated, restored.elapsed, restored.best) == (7, 5, 12.5, state.best)
    assert restored.averages["names"] == ["a", "b"]
    assert torch.equal(restored.averages["sums"], torch.tensor([1.5, 2.5]))
    assert restored.averages["images"] == 3
    assert restored.scaler.get_scale() == 8.0
    drawn = (torch.rand(3), np.random.rand(3), __import__("random").random())  # noqa: NPY002
    assert torch.equal(drawn[0], expected[0])
    assert np.array_equal(drawn[1], expected[1])
    assert drawn[2] == expected[2]


def test_generators_go_on_as_if_nothing_had_been_drawn() -> None:
    state = capture_random_state()
    expected = torch.rand(2), np.random.standard_normal(3)  # noqa: NPY002
    restore_random_state(state)
    with preserved_random_state():
        torch.rand(100)
        np.random.standard_normal(101)  # noqa: NPY002 - an odd number leaves a cached one behind
    assert torch.equal(torch.rand(2), expected[0])
    assert np.array_equal(np.random.standard_normal(3), expected[1])  # noqa: NPY002


def test_the_newest_is_taken(saved: Path) -> None:
    state, warnings = resume(saved)
    assert state.step == 20
    assert torch.equal(state.network.conv.weight, new_state(20).network.conv.weight)
    assert warnings == []


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "none", {})
    assert not checkpointer.resume(new_state())
    assert checkpointer.latest() is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_one_is_put_aside_and_the_one_before_taken(saved: Path, damage: str) -> None:
    newest = saved / "checkpoint_00000020.pt"
    if damage == "flip":
        flip_byte(newest)
    else:
        os.truncate(newest, 0 if damage == "empty" else newest.stat().st_size - 5)
    state, warnings = resume(saved)
    assert state.step == 10
    assert torch.equal(state.network.conv.weight, new_state(10).network.conv.weight)
    assert len(warnings) == 1
    assert str(newest) in warnings[0]
    assert names(saved) == ["checkpoint_00000010.pt", "checkpoint_00000020.damaged"]
    # The damaged one's number must not have the good ones pruned.
    checkpointer = Checkpointer(saved, {}, keep=1)
    checkpointer.save(new_state(12, step=12))
    assert names(saved) == ["checkpoint_00000012.pt", "checkpoint_00000020.damaged"]


def test_if_none_is_whole_it_says_so(saved: Path) -> None:
    for path in saved.glob("*.pt"):
        flip_byte(path)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole \(2 tried\)"):
        resume(saved)


def test_another_runs_checkpoint_is_refused_with_the_keys(saved: Path) -> None:
    with pytest.raises(UserError) as caught:
        resume(saved, {"config": {"lr": 0.2, "seed": 1}, "dataset": "abc"})
    assert "checkpoint_00000020.pt belongs to another run" in str(caught.value)
    assert "config.lr: 0.1 in the checkpoint, 0.2 now; config.seed: absent in the checkpoint, 1 now" in str(
        caught.value
    )
    assert "dataset" not in str(caught.value)
    assert len(names(saved)) == 2


def test_another_networks_checkpoint_is_refused(saved: Path) -> None:
    state = new_state()
    state.network.linear = torch.nn.Linear(8, 3)
    state.optimizer = build_optimizer(state.network, lr=0.1)
    with pytest.raises(UserError, match=r"does not fit this run: .*linear\.weight"):
        Checkpointer(saved, {"config": {"lr": 0.1}, "dataset": "abc"}).resume(state)
    assert len(names(saved)) == 2


def test_a_newer_release_s_checkpoint_is_refused_not_put_aside(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("detection.training.artifacts.VERSION", 2)
        Checkpointer(saved, {}).save(new_state(step=30))
    with pytest.raises(UserError, match="newer release"):
        resume(saved)
    assert names(saved) == ["checkpoint_00000020.pt", "checkpoint_00000030.pt"]


def test_a_checkpoint_with_nan_weights_is_not_taken(saved: Path) -> None:
    state = new_state(step=30)
    with torch.no_grad():
        state.network.conv.weight[0] = float("nan")
    Checkpointer(saved, {"config": {"lr": 0.1}, "dataset": "abc"}).save(state)
    state, warnings = resume(saved)
    assert state.step == 20
    assert "network.conv.weight holds NaN" in warnings[0]


def altered(saved: Path, change: Callable[[dict], object]) -> Path:
    """A folder with one checkpoint, the newest of `saved` after `change`, under a right checksum."""
    content = load_artifact(saved / "checkpoint_00000020.pt", "checkpoint")
    change(content)
    folder = saved / "altered"
    rest = {key: value for key, value in content.items() if key not in ("format", "version", "kind")}
    save_artifact(folder / "checkpoint_00000020.pt", "checkpoint", **rest)
    return folder


def test_a_checkpoint_of_an_earlier_release_has_no_averages_and_is_taken(saved: Path) -> None:
    state, _ = resume(altered(saved, lambda content: content.pop("averages")))
    assert (state.step, state.averages) == (20, None)


def momentum(content: dict, change: Callable[[torch.Tensor], object]) -> None:
    kept = content["optimizer"]["state"][0]
    kept["momentum_buffer"] = change(kept["momentum_buffer"])


ALTERATIONS: dict[str, Callable[[dict], object]] = {
    "a short momentum buffer": lambda content: momentum(content, lambda value: value.flatten()[:5].clone()),
    "one of no elements": lambda content: momentum(content, lambda value: value[:0].clone()),
    "a long one": lambda content: momentum(content, lambda value: torch.cat([value, value])),
    "one of another order": lambda content: momentum(content, lambda value: value.flatten()),
    "one of another type": lambda content: momentum(content, lambda value: value.double()),
    "one of whole numbers": lambda content: momentum(content, lambda value: value.long()),
    "one of one number": lambda content: momentum(content, lambda value: value.sum()),
    "one that is a list": lambda content: momentum(content, lambda value: value.tolist()),
    "none": lambda content: content["optimizer"]["state"][0].clear(),
    "one of another name": lambda content: content["optimizer"]["state"][0].update(other=torch.ones(2)),
    "of a parameter that is not there": lambda content: content["optimizer"]["state"].update({77: {}}),
    "of a parameter left out": lambda content: content["optimizer"]["state"].pop(0),
    "a group too few": lambda content: content["optimizer"]["param_groups"].pop(),
    "another momentum": lambda content: content["optimizer"]["param_groups"][0].update(momentum=0.5),
    "a word for a momentum": lambda content: content["optimizer"]["param_groups"][0].update(momentum="much"),
    "a list for a rate": lambda content: content["optimizer"]["param_groups"][0].update(lr=[1]),
    "other parameters in a group": lambda content: content["optimizer"]["param_groups"][0].update(params=[2, 1]),
    "a word for a step": lambda content: content.update(step="many"),
    "a negative step": lambda content: content.update(step=-1),
    "a list for the time": lambda content: content.update(elapsed=[]),
    "a best that is no number": lambda content: content["best"].update(value="high"),
    "averages of other losses": lambda content: content.update(
        averages=[{"names": ["a"], "sums": torch.ones(2), "images": 1}]
    ),
    "averages that are none": lambda content: content.update(averages=["a"]),
    "a random state that is too short": lambda content: content["random"][0].update(
        torch=torch.zeros(9, dtype=torch.uint8)
    ),
    "a random state of negative words": lambda content: content["random"][0].update(
        python=(3, -torch.ones(625, dtype=torch.int64), None)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_does_not_fit_the_run_is_refused_in_words(saved: Path, name: str) -> None:
    """Under a right checksum, so somebody has made it so. The fused optimizer would read beyond a short buffer."""
    folder = altered(saved, ALTERATIONS[name])
    with pytest.raises(UserError, match=r"checkpoint_00000020\.pt does not fit this run: "):
        resume(folder)


def test_an_optimizer_that_has_nothing_yet_is_filled(tmp_path: Path) -> None:
    """As one of PyTorch's that was not made by `build_optimizer`."""
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = ToyNetwork()
        states.append(TrainingState(network, torch.optim.Adam(network.parameters())))
    sum(parameter.sum() for parameter in states[0].network.parameters()).backward()
    states[0].optimizer.step()
    Checkpointer(tmp_path, {}).save(states[0])
    assert Checkpointer(tmp_path, {}).resume(states[1])
    for one, other in zip(*(state.network.parameters() for state in states), strict=True):
        kept = [state.optimizer.state[key] for state, key in zip(states, (one, other), strict=True)]
        assert all(torch.equal(kept[0][name], kept[1][name]) for name in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("content", [{}, {"provenance": 3}, {"provenance": "{}", "network": [], "optimizer": {}}])
def test_a_checkpoint_made_up_by_hand_is_refused(tmp_path: Path, content: dict) -> None:
    save_artifact(tmp_path / "checkpoint_00000001.pt", "checkpoint", **content)
    with pytest.raises(UserError, match="does not fit this run"):
        Checkpointer(tmp_path, {}).resume(new_state())


def test_old_ones_are_pruned_and_the_best_stays(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, {}, keep=2)
    checkpointer.save_best(new_state(step=1))
    for step in (1, 2, 3, 100_000_000):
        checkpointer.save(new_state(step=step))
    assert names(tmp_path) == ["best.pt", "checkpoint_00000003.pt", "checkpoint_100000000.pt"]
    assert checkpointer.latest() == tmp_path / "checkpoint_100000000.pt"
    assert load_artifact(tmp_path / "best.pt", "checkpoint")["step"] == 1


def test_leftovers_of_a_killed_writer_are_removed(saved: Path) -> None:
    for half in (".checkpoint_00000030.pt.tmp", ".checkpoint_00000030.pt.abc123.tmp"):
        (saved / half).write_bytes(b"half")
    (saved / ".other.tmp").write_bytes(b"somebody's")
    resume(saved)
    assert names(saved) == [".other.tmp", "checkpoint_00000010.pt", "checkpoint_00000020.pt"]


def test_a_full_disk_keeps_the_old_ones(small_disk: Path) -> None:
    checkpointer = Checkpointer(small_disk, {}, keep=1)
    checkpointer.save(new_state(step=1))
    filler = small_disk / "filler"
    filler.write_bytes(bytes(small_disk.stat().st_blksize))
    with pytest.raises(OSError, match="No space"), open(filler, "ab", buffering=0) as file:
        file.writelines(bytes(1024) for _ in range(1000))
    with pytest.raises(UserError, match=r"checkpoint_00000002\.pt cannot be written: No space left on device"):
        checkpointer.save(new_state(step=2))
    assert names(small_disk) == ["checkpoint_00000001.pt", "filler"]
    filler.unlink()
    state = new_state(99)
    assert Checkpointer(small_disk, {}).resume(state)
    assert state.step == 1


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run/checkpoint_00000001\.pt cannot be written"):
        Checkpointer(tmp_path / "file" / "run", {}).save(new_state(step=1))


def test_keeping_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1"):
        Checkpointer(tmp_path, {}, keep=0)


def test_what_the_optimizer_keeps_takes_the_parameters_memory_order(tmp_path: Path) -> None:
    """A run goes on in another order, with a fused optimizer, as it would have in its own."""
    ends = []
    for order in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3)
        optimizer = build_optimizer(network, lr=0.1)
        first = TrainingState(network, optimizer)
        gradient = torch.randn(4, 3, 3, 3)
        network.weight.grad, network.bias.grad = gradient.clone(), torch.ones(4)
        optimizer.step()
        Checkpointer(tmp_path / str(order), {}).save(first)

        other = torch.nn.Conv2d(3, 4, 3).to(memory_format=order)  # type: ignore[call-overload]
        state = TrainingState(other, build_optimizer(other, lr=0.1))
        assert Checkpointer(tmp_path / str(order), {}).resume(state)
        kept = state.optimizer.state[other.weight]["momentum_buffer"]
        assert kept.stride() == other.weight.stride()
        other.weight.grad, other.bias.grad = gradient.contiguous(memory_format=order), torch.ones(4)
        state.optimizer.step()
        ends.append(other.weight.detach().clone())
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=1e-7)
