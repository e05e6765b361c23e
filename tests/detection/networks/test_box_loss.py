"""Each box loss, its gradient too, against torchvision's or a slow loop; the networks that learn by them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from torchvision.ops.boxes import box_iou, generalized_box_iou

from detection.geometry.coding import BoxCoder
from detection.networks.box_loss import BoxLoss, BoxLossKind
from tests.detection.geometry.test_boxes import random_boxes
from tests.detection.networks.test_fast_rcnn import LABELS, OBJECTS, around
from tests.detection.tiny_networks import batch, tiny_fast_rcnn, tiny_rpn

CODER = BoxCoder((0.1, 0.1, 0.2, 0.2), (0.01, 0.0, -0.02, 0.03))


def slow_iou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    return torch.stack([1 - box_iou(a[None], b[None]).squeeze() for a, b in zip(boxes, truth, strict=True)])


def slow_giou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    return torch.stack([1 - generalized_box_iou(a[None], b[None]).squeeze() for a, b in zip(boxes, truth, strict=True)])


def slow_ciou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Equations 5 to 11 of the paper, one box at a time; the weight of the aspect term has no gradient."""
    losses = []
    for a, b in zip(boxes, truth, strict=True):
        iou = box_iou(a[None], b[None]).squeeze()
        across = torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])
        shift = (a[:2] + a[2:] - b[:2] - b[2:]) / 2
        (width, height), (own_width, own_height) = b[2:] - b[:2], a[2:] - a[:2]
        aspect = 4 / math.pi**2 * (torch.atan(width / height) - torch.atan(own_width / own_height)) ** 2
        weight = (aspect / (1 - iou + aspect)).detach()
        losses.append(1 - iou + shift.square().sum() / across.square().sum() + weight * aspect)
    return torch.stack(losses)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("iou", slow_iou_loss),
        ("giou", slow_giou_loss),
        ("giou", lambda a, b: generalized_box_iou_loss(a, b)),
        ("diou", lambda a, b: distance_box_iou_loss(a, b)),
        ("ciou", lambda a, b: complete_box_iou_loss(a, b)),
        ("ciou", slow_ciou_loss),
    ],
)
def test_values_and_gradients(kind: BoxLossKind, expected: Callable[[Tensor, Tensor], Tensor]) -> None:
    reference, truth = (random_boxes(1, 60, seed=seed, extent=90.0)[0].double() for seed in (1, 2))
    truth[:20] = reference[:20] + torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    is_object = torch.arange(60) % 4 != 3
    targets = torch.randn(60, 4, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    losses = BoxLoss(kind, weight=10.0)(targets, truth, reference, is_object, CODER)
    (gradient,) = torch.autograd.grad(losses.sum(), targets)
    own = 10 * expected(CODER.decode(targets, reference)[is_object], truth[is_object])
    (own_gradient,) = torch.autograd.grad(own.sum(), targets)
    torch.testing.assert_close(losses[is_object], own, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, own_gradient, rtol=1e-5, atol=1e-6)
    assert not losses[~is_object].any()
    assert not gradient[~is_object].any()


def test_published_values_of_disjoint_boxes() -> None:
    """Two unit squares a unit apart: IoU 0; the smallest box around both has area 3 and is a third empty; its diagonal
    is √10 and the centres are 2 apart."""
    first, second = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    targets = BoxCoder().encode(first, second)
    is_object = torch.ones(1, dtype=torch.bool)
    for kind, value in {"iou": 1.0, "giou": 1 + 1 / 3, "diou": 1 + 4 / 10, "ciou": 1 + 4 / 10}.items():
        loss = BoxLoss(kind)(targets, first.roll(0) + 0, second, is_object, BoxCoder())  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(0, abs=1e-5)
        loss = BoxLoss(kind)(targets, second, second, is_object, BoxCoder())  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "iou", "giou", "diou", "ciou"])
def test_padding_and_boxes_without_area_give_finite_gradients(kind: BoxLossKind) -> None:
    reference = torch.tensor([[0.0, 0, 0, 0], [0, 0, 10, 10], [0, 0, 10, 10], [3, 3, 3, 9]])
    truth = torch.tensor([[0.0, 0, 0, 0], [50, 50, 60, 60], [0, 0, 10, 10], [0, 0, 0, 0]])
    targets = torch.tensor([[0.0] * 4, [0.0, 0, -60, 900], [0.0] * 4, [float("inf")] * 4], requires_grad=True)
    loss = BoxLoss(kind)(targets, truth, reference, torch.tensor([False, True, True, False]), BoxCoder())
    loss.sum().backward()
    assert loss.isfinite().all()
    assert targets.grad is not None
    assert targets.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_the_fast_rcnn_learns_by_it(kind: BoxLossKind) -> None:
    network = tiny_fast_rcnn(samples=1000, positive_share=1.0, box_loss=kind, box_loss_weight=10.0)
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 30))
    losses = network(whole)
    regions, labels, boxes, valid = network.sample_regions(whole)
    _, targets = network.predict(whole.images, whole.sizes, regions)
    expected = torch.zeros(3)
    own = {"giou": generalized_box_iou_loss, "ciou": complete_box_iou_loss}[kind]
    for image in range(3):
        for s in range(int(valid[image].sum())):
            if label := int(labels[image, s]):
                decoded = network.coder.decode(
                    targets.unflatten(0, labels.shape)[image, s, label - 1], regions[image, s]
                )
                expected[image] += 10 * own(decoded, boxes[image, s]).detach()
        expected[image] /= valid[image].sum()
    torch.testing.assert_close(losses["box"], expected)
    assert losses["box"][2] == 0
    sum(value.sum() for value in losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


def test_the_rpn_learns_by_it() -> None:
    plain, network = tiny_rpn(), tiny_rpn(box_loss="giou", box_loss_weight=2.0)
    whole = batch(OBJECTS, LABELS)
    losses, others = network(whole), plain(whole)
    assert torch.equal(losses["objectness"], others["objectness"])
    assert not torch.equal(losses["box"], others["box"])
    assert losses["box"][2] == 0
    network.samples, network.positive_share = 10_000, 0.5  # every anchor: no draw decides
    maps = network.feature_maps(whole.images, whole.sizes)
    anchors = network.anchors(maps)
    kind, matched = network.assign(anchors, whole.boxes, whole.labels, whole.crowds, whole.sizes)
    _, targets = network.head(maps)
    expected = []
    for image in range(3):
        own = kind[image] == 1
        decoded = network.coder.decode(targets[image, own], anchors[own])
        loss = 2 * generalized_box_iou_loss(decoded, whole.boxes[image, matched[image, own]], reduction="sum")
        expected.append(loss / (kind[image] >= 0).sum())
    torch.testing.assert_close(network(whole)["box"], torch.stack(expected))
