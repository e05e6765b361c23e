"""A file's weights into a network: only where every tensor fits, and no memory before that is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.training.network_state import build_with_weights, plain_state


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def test_weights_are_written_plain_and_read_back() -> None:
    first = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = plain_state(first)
    assert state["0.weight"].is_contiguous()
    second = build_with_weights(network, state, "x.pt")
    assert not second.training
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in second.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0.weight": torch.zeros(4, 3, 3)}, r"in 1 place\(s\): 0.weight: \(4, 3, 3\) in the file, \(4, 3, 3, 3\) by"),
        (
            {"0.bias": torch.zeros(4, dtype=torch.float64)},
            r"0.bias: torch.float64 \(4,\) in the file, torch.float32 \(4,\) by its configuration",
        ),
        ({"1.num_batches_tracked": torch.tensor(1.0)}, r"torch.float32 \(\) in the file, torch.int64 \(\) by"),
        ({"extra": torch.zeros(2)}, r"extra: \(2,\) in the file, absent by its configuration"),
        ({"0.bias": None}, "cannot be built|are no tensors by name"),
        ({7: torch.zeros(2)}, r"7: \(2,\) in the file, absent by its configuration"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change: dict[Any, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_with_weights(network, {**plain_state(network()), **change}, "x.pt")


def test_a_network_that_does_not_fit_takes_no_memory() -> None:
    built: list[torch.device] = []

    def enormous() -> nn.Module:
        made = nn.Linear(1 << 20, 1 << 20)  # four terabytes
        built.append(made.weight.device)
        return made

    with pytest.raises(UserError, match=r"weight: absent in the file, \(1048576, 1048576\) by its configuration"):
        build_with_weights(enormous, {}, "x.pt")
    assert [device.type for device in built] == ["meta"]


def test_names_of_earlier_versions_are_brought_to_today_s() -> None:
    state = {f"old.{name}": value for name, value in plain_state(network()).items()}
    read = build_with_weights(network, state, "x.pt", lambda state, names: {name[4:]: state[name] for name in state})
    assert torch.equal(read.state_dict()["0.bias"], state["old.0.bias"])
