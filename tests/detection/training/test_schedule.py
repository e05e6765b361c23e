"""The learning rate, against PyTorch's own schedulers."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from backbones.common.errors import UserError
from detection.training import schedule as module
from detection.training.schedule import Schedule


def rates_of_torch(steps: int, base: float, make_schedulers) -> list[float]:
    """The rates that PyTorch's schedulers, stepped side by side, give each update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    schedulers = make_schedulers(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return rates


def test_warmup_and_milestones_agree_with_torch() -> None:
    def schedulers(optimizer):
        lr = torch.optim.lr_scheduler
        return [
            lr.LinearLR(optimizer, start_factor=1 / 3, total_iters=20),
            lr.MultiStepLR(optimizer, milestones=[60, 80], gamma=0.1),
        ]

    ours = Schedule(0.02, 100, milestones=(60, 80), warmup_steps=20, warmup_factor=1 / 3)
    assert [ours(step) for step in range(100)] == pytest.approx(rates_of_torch(100, 0.02, schedulers), rel=1e-9)


def test_cosine_agrees_with_torch() -> None:
    ours = Schedule(0.1, 50, decay="cosine")
    theirs = rates_of_torch(50, 0.1, lambda o: [torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=50)])
    assert [ours(step) for step in range(50)] == pytest.approx(theirs, rel=1e-9)


def test_cosine_begins_where_the_warmup_ends() -> None:
    ours = Schedule(1.0, 110, decay="cosine", warmup_steps=10, warmup_factor=0.0)
    assert ours(0) == 0.0
    assert ours(10) == 1.0
    assert ours(60) == pytest.approx(0.5)
    assert ours(109) == pytest.approx(0.5 * (1 + math.cos(math.pi * 99 / 100)))


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted >= 4


def test_all_faults_of_a_schedule_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Schedule(0.0, 10, decay="cosine", milestones=(5, 5), warmup_steps=10, warmup_factor=2.0)
    for part in ("base_rate", "milestones", "warmup_factor", "cosine needs", "no milestones"):
        assert part in str(caught.value)
