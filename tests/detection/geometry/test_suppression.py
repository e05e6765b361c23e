"""Soft-NMS and box voting against slow loops in double precision."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from detection.geometry.suppression import soft_suppress, vote
from tests.detection.kernels import test_suppression


def clustered(count: int, seed: int) -> Tensor:
    """Boxes with an area in many crowded places."""
    boxes = test_suppression.clustered(count, seed)
    corner = torch.minimum(boxes[:, :2], boxes[:, 2:])
    return torch.cat([corner, torch.maximum(boxes[:, :2], boxes[:, 2:]) + 1], dim=1)


def overlap(a: list[float], b: list[float]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def slow_soft_nms(
    boxes: Tensor, scores: Tensor, decay: str, iou: float, sigma: float, min_score: float
) -> list[tuple[int, float]]:
    """One box after the other, as the authors' `cpu_soft_nms` goes through them: (position, new score)."""
    rows, own = boxes.double().tolist(), dict(enumerate(scores.double().tolist()))
    found = []
    while own:
        best = max(own, key=lambda i: own[i])
        found.append((best, own.pop(best)))
        for i in list(own):
            share = overlap(rows[best], rows[i])
            if decay == "gaussian":
                own[i] *= math.exp(-share * share / sigma)
            elif share > iou:
                own[i] *= 1 - share
            if own[i] < min_score:
                del own[i]
    return found


@pytest.mark.parametrize(("decay", "min_score"), [("linear", 0.001), ("linear", 0.2), ("gaussian", 0.001)])
def test_soft_nms_is_the_slow_loop_in_each_group(decay: Literal["linear", "gaussian"], min_score: float) -> None:
    boxes = torch.cat([clustered(80, 1), clustered(7, 2), clustered(150, 3)])
    scores = 0.2 + 0.8 * torch.rand(len(boxes), generator=torch.Generator().manual_seed(4))
    groups = torch.tensor([5] * 80 + [2] * 7 + [9] * 150)
    shuffled = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(5))
    index, rescored = soft_suppress(
        boxes[shuffled], scores[shuffled], groups[shuffled],
        decay=decay, iou=0.3, sigma=0.5, min_score=min_score, limit=1000,
    )  # fmt: skip
    assert (rescored.diff() <= 0).all()
    found = {int(shuffled[i]): float(score) for i, score in zip(index, rescored, strict=True)}
    expected = {}
    for group in (5, 2, 9):
        own = (groups == group).nonzero().squeeze(1)
        for i, score in slow_soft_nms(boxes[own], scores[own], decay, 0.3, 0.5, min_score):
            expected[int(own[i])] = score
    assert 20 < len(expected) < len(boxes)
    assert found.keys() == expected.keys()
    assert all(found[i] == pytest.approx(expected[i], rel=1e-5) for i in expected)


def test_the_limit_keeps_the_best_of_each_group() -> None:
    boxes, scores = clustered(60, 1), torch.rand(60, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(60) % 2
    options = {"decay": "linear", "iou": 0.3, "sigma": 0.5, "min_score": 0.0}
    every, all_scores = soft_suppress(boxes, scores, groups, limit=60, **options)  # type: ignore[arg-type]
    some, some_scores = soft_suppress(boxes, scores, groups, limit=5, **options)  # type: ignore[arg-type]
    assert len(some) == 10
    for group in (0, 1):
        own = groups[every] == group
        assert some[groups[some] == group].tolist() == every[own][:5].tolist()
        assert torch.equal(some_scores[groups[some] == group], all_scores[own][:5])


def test_the_papers_example_of_a_partly_hidden_object() -> None:
    """Two horses, figure 1: hard suppression loses the one behind, a lowered score keeps it."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6.25]])  # IoU 0.625
    index, scores = soft_suppress(
        boxes, torch.tensor([0.95, 0.8]), torch.zeros(2, dtype=torch.int64),
        decay="linear", iou=0.3, sigma=0.5, min_score=0.001, limit=10,
    )  # fmt: skip
    assert index.tolist() == [0, 1]
    assert scores.tolist() == pytest.approx([0.95, 0.8 * 0.375])


def test_the_same_box_twice_and_no_box() -> None:
    twice = torch.tensor([[0.0, 0, 10, 10]] * 2)
    for decay, second in (("linear", []), ("gaussian", [0.5 * math.exp(-2)])):
        index, scores = soft_suppress(
            twice, torch.tensor([0.5, 0.5]), torch.zeros(2, dtype=torch.int64),
            decay=decay, iou=0.3, sigma=0.5, min_score=0.001, limit=10,  # type: ignore[arg-type]
        )  # fmt: skip
        assert index.tolist() == [0, 1][: 1 + len(second)]
        assert scores.tolist() == pytest.approx([0.5, *second])
    nothing = torch.zeros(0, 4)
    index, scores = soft_suppress(
        nothing, torch.zeros(0), torch.zeros(0, dtype=torch.int64),
        decay="linear", iou=0.3, sigma=0.5, min_score=0.001, limit=10,
    )  # fmt: skip
    assert index.shape == scores.shape == (0,)


def test_votes_are_detectrons_average() -> None:
    boxes = torch.cat([clustered(90, 1), clustered(60, 2)])
    scores = 0.05 + 0.95 * torch.rand(150, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(150) % 3
    chosen = torch.arange(0, 150, 7)
    found = vote(boxes[chosen], groups[chosen], boxes, scores, groups, iou=0.6)
    changed = 0
    for at, i in enumerate(chosen.tolist()):
        rows = boxes.double().tolist()
        voters = [j for j in range(150) if groups[j] == groups[i] and overlap(rows[i], rows[j]) >= 0.6]
        weights = [float(scores[j]) for j in voters]
        expected = [
            sum(w * rows[j][side] for w, j in zip(weights, voters, strict=True)) / sum(weights) for side in range(4)
        ]
        assert found[at].tolist() == pytest.approx(expected, abs=1e-3)
        changed += len(voters) > 1
    assert changed > 5
