"""From scored boxes to detections: across classes, softly, voted; and the plain way as torchvision has it."""

from __future__ import annotations

import pytest
import torch
import torchvision

from detection.geometry.suppression import soft_suppress, vote
from detection.kernels.choice import CPU, PLAIN, Kernels
from detection.networks.detections import PLAIN_NMS, Candidates, Detections, Suppression, joined, select_detections
from tests.detection.kernels.test_suppression import clustered

CLASSES = 3


def candidates(count: int = 120, images: int = 2) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    return Candidates(
        torch.randint(images, (count,), generator=generator),
        clustered(count, 1),
        torch.rand(count, generator=generator),
        1 + torch.randint(CLASSES, (count,), generator=generator),
    )


def select(found: Candidates, suppression: Suppression, limit: int = 1000, kernels: Kernels = CPU) -> list[Detections]:
    return select_detections(found, 2, CLASSES, kernels, suppression, nms_iou=0.5, limit=limit)


def only(found: Candidates, image: int) -> Candidates:
    own = found.images == image
    return Candidates(*(values[own] for values in found))


def test_plain_and_across_classes_are_torchvisions() -> None:
    whole = candidates()
    for image, (within, across) in enumerate(
        zip(select(whole, PLAIN_NMS), select(whole, Suppression(across_classes=True)), strict=True)
    ):
        own = only(whole, image)
        kept = torchvision.ops.batched_nms(own.boxes, own.scores, own.labels, 0.5)
        assert torch.equal(within.boxes, own.boxes[kept])
        assert torch.equal(within.labels, own.labels[kept])
        kept = torchvision.ops.nms(own.boxes, own.scores, 0.5)
        assert torch.equal(across.boxes, own.boxes[kept])
        assert torch.equal(across.scores, own.scores[kept])
        assert torch.equal(across.labels, own.labels[kept])
        assert len(across.scores) < len(within.scores) < len(own.scores)


@pytest.mark.parametrize("kernels", [CPU, PLAIN], ids=["cpu", "plain"])
@pytest.mark.parametrize("across", [False, True])
def test_soft_nms_in_every_image_and_class(across: bool, kernels: Kernels) -> None:
    whole = candidates()
    options = Suppression("gaussian", sigma=0.3, min_score=0.05, across_classes=across)
    for image, found in enumerate(select(whole, options, 20, kernels)):
        own = only(whole, image)
        groups = torch.zeros_like(own.labels) if across else own.labels
        index, scores = soft_suppress(
            own.boxes, own.scores, groups, decay="gaussian", iou=0.5, sigma=0.3, min_score=0.05, limit=1000
        )
        assert torch.equal(found.boxes, own.boxes[index[:20]])
        assert torch.equal(found.scores, scores[:20])
        assert torch.equal(found.labels, own.labels[index[:20]])


def test_votes_come_from_the_same_image_and_class_and_leave_scores_alone() -> None:
    whole = candidates()
    plain, voted = (select(whole, options, 15) for options in (PLAIN_NMS, Suppression(voting_iou=0.6)))
    for image, (before, after) in enumerate(zip(plain, voted, strict=True)):
        own = only(whole, image)
        expected = vote(before.boxes, before.labels, own.boxes, own.scores, own.labels, iou=0.6)
        torch.testing.assert_close(after.boxes, expected)
        assert torch.equal(after.scores, before.scores)
        assert torch.equal(after.labels, before.labels)
        assert not torch.equal(after.boxes, before.boxes)
    across = select(whole, Suppression(across_classes=True, voting_iou=0.6))
    for image, found in enumerate(across):
        own = only(whole, image)
        kept = torchvision.ops.nms(own.boxes, own.scores, 0.5)
        expected = vote(own.boxes[kept], own.labels[kept], own.boxes, own.scores, own.labels, iou=0.6)
        torch.testing.assert_close(found.boxes, expected)


@pytest.mark.parametrize("options", [PLAIN_NMS, Suppression("linear"), Suppression(voting_iou=0.8)])
def test_no_candidates_in_one_image_or_in_any(options: Suppression) -> None:
    whole = candidates()
    first = only(whole, 0)
    some = select(first, options)
    assert len(some[0].scores) > 0
    assert len(some[1].scores) == 0
    nothing = Candidates(*(values[:0] for values in whole))
    assert [len(found.scores) for found in select(nothing, options)] == [0, 0]


@pytest.mark.parametrize("method", ["hard", "linear"])
def test_boxes_without_area_are_left_out(method: str) -> None:
    flat = Candidates(
        torch.zeros(2, dtype=torch.int64),
        torch.tensor([[5.0, 5, 5, 9], [0, 0, 4, 4]]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([1, 1]),
    )
    found, _ = select(flat, Suppression(method))  # type: ignore[arg-type]
    assert found.boxes.tolist() == [[0, 0, 4, 4]]


def test_views_of_an_image_are_joined() -> None:
    whole = candidates()
    both = joined([only(whole, 0), only(whole, 1)])
    assert len(both.scores) == len(whole.scores)
    for one, other in zip(select(both, PLAIN_NMS), select(whole, PLAIN_NMS), strict=True):
        assert torch.equal(one.boxes, other.boxes)
