"""Matching against a slow loop of the test's own and against torchvision's matcher."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import Matcher

from detection.geometry import boxes as box_ops
from detection.geometry.matching import match
from tests.detection.geometry.test_boxes import random_boxes


def match_slowly(
    overlaps: list[list[float]], positive: float, negative: float, low: float, best: bool
) -> tuple[list[int], list[int]]:
    """One image: `overlaps` is G lists of B. Written from the words of the docstring."""
    kinds, matched = [], []
    for b in range(len(overlaps[0])):
        column = [row[b] for row in overlaps]
        g = max(range(len(column)), key=lambda i: column[i])
        value = max(column[g], 0.0)
        kind = 1 if value >= positive else 0 if low <= value < negative else -1
        if best and any(row[b] == max(row) > 0 for row in overlaps):
            kind = 1
        kinds.append(kind)
        matched.append(g)
    return matched, kinds


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("low", [0.0, 0.1])
def test_equals_the_slow_loop(best: bool, low: float) -> None:
    overlaps = box_ops.iou(random_boxes(4, 6, seed=5).double(), random_boxes(4, 80, seed=6).double())
    result = match(overlaps, positive=0.5, negative=0.3, negative_low=low, best_is_positive=best)
    for image in range(4):
        matched, kinds = match_slowly(overlaps[image].tolist(), 0.5, 0.3, low, best)
        assert result.kind[image].tolist() == kinds
        assert result.ground_truth[image].tolist() == matched


@pytest.mark.parametrize("best", [False, True])
def test_equals_torchvisions_matcher(best: bool) -> None:
    overlaps = box_ops.iou(random_boxes(1, 9, seed=7), random_boxes(1, 300, seed=8))
    ours = match(overlaps, positive=0.7, negative=0.3, best_is_positive=best)
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=best)(overlaps[0])
    assert torch.equal(ours.kind[0] == 1, theirs >= 0)
    assert torch.equal(ours.kind[0] == 0, theirs == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(ours.ground_truth[0][theirs >= 0], theirs[theirs >= 0])


def test_ties_for_the_best_are_all_positive() -> None:
    result = match(torch.tensor([[[0.2, 0.2, 0.1]]]), positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[1, 1, 0]]


def test_a_ground_truth_that_nothing_overlaps_makes_nothing_positive() -> None:
    result = match(torch.zeros(1, 1, 3), positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[0, 0, 0]]


def test_without_ground_truth_all_is_background() -> None:
    result = match(torch.full((1, 1, 3), -1.0), positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[0, 0, 0]]
