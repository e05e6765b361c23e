"""The moving average of weights: against PyTorch's own, applied and taken back to the bit, refused where it does not
fit."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from toy_run import ToyNetwork

from detection.training.averaging import WeightAverage


def moved(network: nn.Module, seed: int) -> None:
    """Changes every parameter and running statistic, as a step would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]:
            value.add_(torch.randn(value.shape, generator=generator))


def test_the_average_is_pytorchs() -> None:
    """`AveragedModel` with the same warm-up; it copies where ours starts from the initial weights with d = 0.1."""
    torch.manual_seed(0)
    network = ToyNetwork()
    ours = WeightAverage(network, 0.5)
    theirs = AveragedModel(
        network,
        avg_fn=lambda average, value, n: average + (value - average) * (1 - min(0.5, (n + 1) / (n + 10))),
        use_buffers=True,
    )
    theirs.n_averaged.zero_()
    theirs.update_parameters(network)  # counts 0: takes the initial weights as they are
    theirs.n_averaged.zero_()
    for step in range(12):
        moved(network, step)
        ours.update()
        if step == 0:  # PyTorch would copy: its first average is done by hand
            for name, value in theirs.module.state_dict().items():
                if value.is_floating_point():
                    value.add_(0.9 * (network.state_dict()[name] - value))
            theirs.n_averaged.fill_(1)
        else:
            theirs.update_parameters(network)
    expected = theirs.module.state_dict()
    assert ours.values.keys() == {name for name, value in expected.items() if value.is_floating_point()}
    for name, value in ours.values.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
        assert not torch.equal(value, network.state_dict()[name])


def test_a_decay_of_0_is_the_weights_themselves_and_frozen_ones_are_left_out() -> None:
    network = ToyNetwork()
    network.conv.requires_grad_(False)
    average = WeightAverage(network, 0.0)
    moved(network, 1)
    average.update()
    assert not any(name.startswith("conv.") for name in average.values)
    for name, value in average.values.items():
        torch.testing.assert_close(value, network.state_dict()[name])


def test_the_weights_come_back_to_the_bit_even_after_an_error() -> None:
    network = ToyNetwork()
    average = WeightAverage(network, 0.9)
    moved(network, 1)
    average.update()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with contextlib.suppress(ZeroDivisionError), average.applied():
        assert torch.equal(network.linear.weight, average.values["linear.weight"])
        assert not torch.equal(network.linear.weight, before["linear.weight"])
        raise ZeroDivisionError
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    average.apply()
    assert torch.equal(network.linear.weight, average.values["linear.weight"])


@pytest.mark.parametrize(
    "state",
    [{}, {"values": {}, "updates": 1}, {"values": {"a": torch.zeros(2)}, "updates": 1}, {"values": 3, "updates": 1}],
)
def test_an_average_of_another_network_is_refused(state: dict) -> None:
    average = WeightAverage(ToyNetwork(), 0.9)
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        average.load_state_dict(state)
    good = average.state_dict()
    for updates in (-1, "3"):
        with pytest.raises(TypeError):
            average.load_state_dict({**good, "updates": updates})
