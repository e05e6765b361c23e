"""NMS in exportable forms against the definition, one box after the other, and against the kernels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detection.export.suppression import NMS, UNLIMITED, nms, onnx_nms, suppress_by, survivors
from detection.geometry.boxes import iou
from detection.kernels.suppression import suppress

FORMS = [nms, onnx_nms]


def random_boxes(sets: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((sets, count, 2), generator=generator) * 60
    boxes = torch.cat([corner, corner + torch.rand((sets, count, 2), generator=generator) * 40], dim=2)
    return boxes, torch.rand((sets, count), generator=generator)


def one_by_one(boxes: Tensor, scores: Tensor, threshold: float, min_score: float) -> list[int]:
    kept: list[int] = []
    for candidate in scores.argsort(descending=True).tolist():
        if scores[candidate] > min_score and all(
            iou(boxes[[other]], boxes[[candidate]]) <= threshold for other in kept
        ):
            kept.append(candidate)
    return kept


@pytest.mark.parametrize("form", FORMS)
def test_sets_are_suppressed_each_by_itself(form: NMS) -> None:
    boxes, scores = random_boxes(3, 40)
    boxes[1] = boxes[0]  # the same boxes in another set do not suppress each other
    got = form(boxes, scores, 0.3, 0.2, UNLIMITED).tolist()
    for number in range(3):
        expected = one_by_one(boxes[number], scores[number], 0.3, 0.2)
        assert [box for own, box in got if own == number] == expected
        assert 1 < len(expected) < 40


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("candidates", [0, 1])
def test_few_or_no_candidates(form: NMS, candidates: int) -> None:
    boxes, _ = random_boxes(2, 5)
    scores = torch.zeros(2, 5)
    scores[1, :candidates] = 0.5
    assert form(boxes, scores, 0.5, 0.1, UNLIMITED).tolist() == [[1, 0]] * candidates


@pytest.mark.parametrize("limit", [5, 1000])
def test_proposals_are_those_of_the_kernel(limit: int) -> None:
    boxes, _ = random_boxes(2, 200)
    valid = torch.rand(2, 200, generator=torch.Generator().manual_seed(1)) > 0.3
    expected, expected_kept = suppress(boxes, valid, 0.5, limit)
    got, kept = suppress_by(nms)(boxes, valid, 0.5, limit)
    assert torch.equal(kept, expected_kept)
    assert torch.equal(got, expected)


def test_survivors_are_marked_at_their_places() -> None:
    marked = survivors(torch.tensor([[0, 2], [1, 0]]), torch.zeros(2, 3))
    assert marked.tolist() == [[False, False, True], [True, False, False]]
    assert not survivors(torch.zeros((0, 2), dtype=torch.int64), torch.zeros(2, 3)).any()
