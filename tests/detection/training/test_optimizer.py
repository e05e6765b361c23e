"""Parameter groups: who decays, who moves at which rate, who is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.training.optimizer import build_optimizer, set_learning_rate


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2)
    )


def groups_by_name(optimizer: torch.optim.Optimizer) -> dict[str, dict]:
    return {group["name"]: group for group in optimizer.param_groups}


def test_groups_hold_each_parameter_once() -> None:
    net = network()
    groups = groups_by_name(build_optimizer(net, lr=0.1))
    assert {id(p) for p in groups["weight"]["params"]} == {id(net[0].weight), id(net[4].weight)}
    assert {id(p) for p in groups["bias"]["params"]} == {id(net[0].bias), id(net[4].bias)}
    assert {id(p) for p in groups["norm"]["params"]} == {id(p) for i in (1, 2, 5) for p in net[i].parameters()}


def test_the_papers_biases_move_twice_as_fast_and_do_not_decay() -> None:
    optimizer = build_optimizer(
        network(), lr=0.1, weight_decay=1e-3, bias_lr_factor=2.0, bias_weight_decay=False, norm_weight_decay=False
    )
    groups = groups_by_name(optimizer)
    assert {name: group["weight_decay"] for name, group in groups.items()} == {"weight": 1e-3, "bias": 0.0, "norm": 0.0}
    set_learning_rate(optimizer, 0.02)
    assert {name: group["lr"] for name, group in groups.items()} == {"weight": 0.02, "bias": 0.04, "norm": 0.02}


def test_frozen_and_shared_parameters() -> None:
    net = network()
    net[0].requires_grad_(False)
    net.append(nn.Linear(4, 2))
    net[6].weight = net[4].weight
    held = [id(p) for group in build_optimizer(net, lr=0.1).param_groups for p in group["params"]]
    assert id(net[0].weight) not in held
    assert len(held) == len(set(held)) == sum(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("nesterov", [False, True])
def test_updates_equal_momentum_sgd_written_out_in_double(nesterov: bool) -> None:
    """v ← m·v + (g + decay·w); w ← w − rate·(v, or g + decay·w + m·v with Nesterov)."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = build_optimizer(
        net, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01, bias_lr_factor=2.0, bias_weight_decay=False
    )
    expected = {name: p.detach().double().clone() for name, p in net.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(4):
        inputs = torch.randn(5, 3)
        rate = 0.1 / (step + 1)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        net(inputs).square().sum().backward()
        output = inputs.double() @ expected["weight"].T + expected["bias"]
        gradients = {"weight": 2 * output.T @ inputs.double(), "bias": 2 * output.sum(0)}
        for name, gradient in gradients.items():
            gradient = gradient + (0.01 if name == "weight" else 0.0) * expected[name]
            velocity[name] = 0.9 * velocity[name] + gradient
            move = gradient + 0.9 * velocity[name] if nesterov else velocity[name]
            expected[name] = expected[name] - rate * (2.0 if name == "bias" else 1.0) * move
        optimizer.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-4, atol=1e-4)


def test_a_first_update_that_the_device_skips_leaves_no_trace() -> None:
    """The fused kernel alone would leave its momentum buffers uninitialised."""
    torch.manual_seed(0)
    nets = [nn.Linear(50, 50) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, skip_first in zip(nets, (False, True), strict=True):
        optimizer = build_optimizer(net, lr=0.1)
        if skip_first:
            for p in net.parameters():
                p.grad = torch.full_like(p, float("nan"))
            optimizer.found_inf = torch.ones(())
            optimizer.step()
            del optimizer.found_inf
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "values",
    [{"lr": 0.0}, {"lr": 0.1, "momentum": 1.0}, {"lr": 0.1, "momentum": 0.0, "nesterov": True}, {"lr": float("nan")}],
)
def test_values_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(UserError):
        build_optimizer(network(), **values)


def test_a_wholly_frozen_network_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable parameter"):
        build_optimizer(network().requires_grad_(False), lr=0.1)
