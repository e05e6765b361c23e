"""Matching against a slow loop of the test's own and against torchvision's matcher."""

from __future__ import annotations

import itertools

import pytest
import torch
from torchvision.models.detection._utils import Matcher

from detection.geometry import boxes as box_ops
from detection.geometry import matching
from detection.geometry.matching import IGNORED, POSITIVE, inside_any, match
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


@pytest.fixture(params=[1 << 19, 1], ids=["at once", "one by one"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ground truth's boxes in one block, and each in its own."""
    for function in (matching.match, matching.inside_any):
        monkeypatch.setitem(function.__kwdefaults__, "overlaps_at_once", request.param)


def test_a_block_has_so_many_overlaps_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matching.match.__kwdefaults__, "overlaps_at_once", 250)
    seen: list[torch.Tensor] = []

    def noted_iou(*boxes: torch.Tensor) -> torch.Tensor:
        seen.append(box_ops.iou(*boxes))
        return seen[-1]

    truth, boxes = random_boxes(2, 7, seed=5), random_boxes(2, 40, seed=6)
    match(truth, all_of(truth), boxes, positive=0.5, negative=0.3, overlap=noted_iou)
    assert [one.numel() for one in seen] == [240, 240, 80]


def all_of(boxes: torch.Tensor) -> torch.Tensor:
    return torch.ones(boxes.shape[:-1], dtype=torch.bool)


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("low", [0.0, 0.1])
def test_equals_the_slow_loop(best: bool, low: float, block: None) -> None:
    truth, boxes = random_boxes(4, 6, seed=5).double(), random_boxes(4, 80, seed=6).double()
    result = match(truth, all_of(truth), boxes, positive=0.5, negative=0.3, negative_low=low, best_is_positive=best)
    overlaps = box_ops.iou(truth, boxes)
    for image in range(4):
        matched, kinds = match_slowly(overlaps[image].tolist(), 0.5, 0.3, low, best)
        assert result.kind[image].tolist() == kinds
        assert result.ground_truth[image].tolist() == matched


@pytest.mark.parametrize("best", [False, True])
def test_equals_torchvisions_matcher(best: bool, block: None) -> None:
    truth, boxes = random_boxes(1, 9, seed=7), random_boxes(300, seed=8)
    ours = match(truth, all_of(truth), boxes, positive=0.7, negative=0.3, best_is_positive=best)
    theirs = Matcher(0.7, 0.3, allow_low_quality_matches=best)(box_ops.iou(truth[0], boxes))
    assert torch.equal(ours.kind[0] == 1, theirs >= 0)
    assert torch.equal(ours.kind[0] == 0, theirs == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(ours.ground_truth[0][theirs >= 0], theirs[theirs >= 0])


@pytest.mark.parametrize("best", [False, True])
def test_what_is_no_target_and_what_takes_no_part_is_as_if_it_were_not_there(best: bool, block: None) -> None:
    truth, boxes = random_boxes(2, 9, seed=7), random_boxes(2, 60, seed=8)
    generator = torch.Generator().manual_seed(0)
    is_target, takes_part = (torch.rand(shape, generator=generator) < 0.6 for shape in ((2, 9), (2, 60)))
    how = {"positive": 0.5, "negative": 0.3, "best_is_positive": best}
    result = match(truth, is_target, boxes, takes_part, **how)  # type: ignore[arg-type]
    for image in range(2):
        here, own = is_target[image], takes_part[image]
        alone = match(truth[image][None, here], here[None, here], boxes[image][None, own], **how)  # type: ignore[arg-type]
        assert torch.equal(result.kind[image][own], alone.kind[0])
        assert (result.kind[image][~own] == IGNORED).all()
        positive = alone.kind[0] == POSITIVE
        expected = here.nonzero()[:, 0][alone.ground_truth[0]]
        assert torch.equal(result.ground_truth[image][own][positive], expected[positive])


def test_ties_for_the_best_are_all_positive() -> None:
    truth = torch.tensor([[[0.0, 0.0, 10.0, 10.0]]])
    boxes = torch.tensor([[0.0, 0.0, 2.0, 10.0], [8.0, 0.0, 10.0, 10.0], [0.0, 0.0, 1.0, 10.0]])  # IoU 0.2, 0.2, 0.1
    result = match(truth, all_of(truth), boxes, positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[1, 1, 0]]


def test_a_ground_truth_that_nothing_overlaps_makes_nothing_positive() -> None:
    truth, boxes = torch.tensor([[[50.0, 50.0, 60.0, 60.0]]]), random_boxes(3, extent=40.0)
    result = match(truth, all_of(truth), boxes, positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("padding", [0, 1])
def test_without_ground_truth_all_is_background(padding: int) -> None:
    truth, boxes = torch.zeros(1, padding, 4), random_boxes(3)
    result = match(truth, ~all_of(truth), boxes, positive=0.7, negative=0.3, best_is_positive=True)
    assert result.kind.tolist() == [[0, 0, 0]]


def test_no_boxes_at_all() -> None:
    truth = random_boxes(2, 3)
    assert match(truth, all_of(truth), torch.zeros(2, 0, 4), positive=0.5, negative=0.3).kind.shape == (2, 0)


def test_inside_any_is_the_share_within_one_region(block: None) -> None:
    boxes, regions = random_boxes(2, 50, seed=1), random_boxes(2, 7, seed=2)
    counts = torch.rand((2, 7), generator=torch.Generator().manual_seed(0)) < 0.5
    found = inside_any(boxes, regions, counts, 0.7)
    expected = torch.zeros(2, 50, dtype=torch.bool)
    for image, box, region in itertools.product(range(2), range(50), range(7)):
        share = box_ops.covered_share(boxes[image, box : box + 1], regions[image, region : region + 1]).item()
        expected[image, box] |= bool(counts[image, region]) and share >= 0.7
    assert torch.equal(found, expected)
    assert found.any()
    assert not found.all()


def test_the_matcher_takes_any_overlap() -> None:
    """The share of a box inside the ground truth in place of IoU: a small box within a large object is positive."""
    truth, boxes = torch.tensor([[[0.0, 0, 100, 100]]]), torch.tensor([[10.0, 10, 20, 20], [90, 90, 110, 110]])
    is_target = torch.ones(1, 1, dtype=torch.bool)
    by_iou = match(truth, is_target, boxes, positive=0.7, negative=0.3)
    inside = match(
        truth, is_target, boxes, positive=0.7, negative=0.2, overlap=lambda g, b: box_ops.covered_share(b, g)
    )
    assert by_iou.kind.tolist() == [[0, 0]]
    assert inside.kind.tolist() == [[1, -1]]
