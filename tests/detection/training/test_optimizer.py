"""Parameter groups: who decays, who moves at which rate, who is left out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones.common.errors import UserError
from detection.training.optimizer import build_optimizer, freeze_parameters, load_optimizer, set_learning_rate
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn


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


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_adamw_with_layer_wise_rates_is_pytorchs_with_a_group_for_each_parameter(layer_decay: float) -> None:
    """The stages' factors are written out here by hand."""
    ours, theirs = (tiny_fast_rcnn(0, norm="batch") for _ in range(2))
    stages = ("trunk.layer1.", "trunk.layer2.", "trunk.layer3.", "box_head.conv5.")
    groups = []
    for name, parameter in theirs.named_parameters():
        if name.startswith(("class_logits", "box_targets")):
            distance = 0
        else:
            distance = next((4 - i for i, stage in enumerate(stages) if name.startswith(stage)), 5)
        is_norm = ".bn" in name or ".downsample.1" in name
        is_bias = name.endswith("bias") and not is_norm
        rate = 1e-3 * layer_decay**distance * (2.0 if is_bias else 1.0)
        groups.append({"params": [parameter], "lr": rate, "weight_decay": 0.0 if is_bias or is_norm else 0.1})
    reference = torch.optim.AdamW(groups, betas=(0.8, 0.95), fused=False, foreach=False)
    optimizer = build_optimizer(
        ours, lr=1e-3, kind="adamw", betas=(0.8, 0.95), layer_decay=layer_decay, weight_decay=0.1, bias_lr_factor=2.0,
        bias_weight_decay=False, norm_weight_decay=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        set_learning_rate(optimizer, 1e-3)
        optimizer.step()
        reference.step()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


def test_the_state_of_adamw_comes_back_and_is_compared() -> None:
    torch.manual_seed(0)
    net = network()
    optimizer = build_optimizer(net, lr=0.1, kind="adamw")
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    again = build_optimizer(network(), lr=0.1, kind="adamw")
    load_optimizer(again, optimizer.state_dict())
    for one, other in zip(optimizer.state.values(), again.state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    broken = optimizer.state_dict()
    broken["state"][0].pop("exp_avg_sq")
    with pytest.raises(ValueError, match="exp_avg_sq"):
        load_optimizer(build_optimizer(network(), lr=0.1, kind="adamw"), broken)


def test_stages_that_a_network_lacks_leave_no_gap_in_the_rates() -> None:
    groups = groups_by_name(build_optimizer(tiny_rpn(0), lr=0.1, layer_decay=0.5))  # on C4: no conv5_x
    assert {name: group["lr"] for name, group in groups.items() if name.startswith("weight")} == {
        "weight.0": 0.1 / 16,
        "weight.1": 0.1 / 8,
        "weight.2": 0.1 / 4,
        "weight.3": 0.1 / 2,
        "weight.5": 0.1,
    }
    with pytest.raises(UserError, match="layer_decay"):
        build_optimizer(network(), lr=0.1, layer_decay=0.0)


def test_patterns_freeze_what_they_match_and_one_that_matches_nothing_is_refused() -> None:
    net = tiny_rpn(0)
    freeze_parameters(net, ["backbone.layer[12].*", "head.?ox.*"])
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {
        n for n, _ in net.named_parameters() if n.startswith(("backbone.layer1", "backbone.layer2", "head.box"))
    }
    with pytest.raises(UserError, match=r"training\.freeze: no parameter of the network matches 'heads\.\*'"):
        freeze_parameters(net, ["heads.*"])
