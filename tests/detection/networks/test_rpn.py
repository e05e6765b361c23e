"""The RPN's losses against a slow float64 loop, its proposals against torchvision's RPN."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from detection.geometry import boxes as box_ops
from detection.geometry.anchors import Anchors
from detection.geometry.sampling import sample
from detection.networks.network_input import prepare
from detection.networks.rpn import RPN
from tests.detection.tiny_networks import (
    LABELS,
    OBJECTS,
    assert_losses_and_gradients_are_finite,
    batch,
    odd_objects,
    part,
    tiny_backbone,
    tiny_rpn,
)


def losses_slowly(
    network: RPN, whole: object, image: int, *, crowd_overlap: float | None = None
) -> tuple[float, float]:
    """One image's losses over all anchors that learn, from the words of Faster R-CNN section 3.1.2, one anchor at a
    time."""
    logits, targets, anchors, _ = network.predict(whole.images, whole.sizes)  # type: ignore[attr-defined]
    logits, targets, anchors = logits.double()[image], targets.double()[image], anchors.double()
    height, width = whole.sizes[image].tolist()  # type: ignore[attr-defined]
    inside = [a for a in range(len(anchors)) if anchors[a, 0] >= 0 and anchors[a, 1] >= 0 and anchors[a, 2] <= width and
    anchors[a, 3] <= height]  # fmt: skip
    present = [g for g in range(whole.labels.shape[1]) if whole.labels[image, g] > 0]  # type: ignore[attr-defined]
    objects = [g for g in present if not whole.crowds[image, g]]  # type: ignore[attr-defined]
    crowds = [g for g in present if whole.crowds[image, g]]  # type: ignore[attr-defined]
    boxes = whole.boxes[image].double()  # type: ignore[attr-defined]
    overlap = {
        (g, a): torchvision.ops.box_iou(boxes[g : g + 1], anchors[a : a + 1]).item() for g in objects for a in inside
    }
    best_of = {g: max(overlap[g, a] for a in inside) for g in objects}
    objectness, box, learning = 0.0, 0.0, 0
    for a in inside:
        own = max(objects, key=lambda g: overlap[g, a]) if objects else None
        value = overlap[own, a] if own is not None else 0.0
        positive = value >= 0.7 or any(abs(overlap[g, a] - best_of[g]) < 1e-6 and best_of[g] > 0 for g in objects)
        if not positive and value >= 0.3:
            continue
        if not positive and crowd_overlap is not None:
            covered = []
            for g in crowds:
                w = min(boxes[g, 2], anchors[a, 2]) - max(boxes[g, 0], anchors[a, 0])
                h = min(boxes[g, 3], anchors[a, 3]) - max(boxes[g, 1], anchors[a, 1])
                area = (anchors[a, 2] - anchors[a, 0]) * (anchors[a, 3] - anchors[a, 1])
                covered.append(float(max(w, 0) * max(h, 0) / area))
            if covered and max(covered) >= crowd_overlap:
                continue
        learning += 1
        p = torch.sigmoid(logits[a]).item()
        objectness -= float(torch.log(torch.tensor(p if positive else 1 - p, dtype=torch.float64)))
        if positive:
            wa, ha = anchors[a, 2] - anchors[a, 0], anchors[a, 3] - anchors[a, 1]
            wg, hg = boxes[own, 2] - boxes[own, 0], boxes[own, 3] - boxes[own, 1]
            goal = [
                (boxes[own, 0] + boxes[own, 2] - anchors[a, 0] - anchors[a, 2]) / 2 / wa,
                (boxes[own, 1] + boxes[own, 3] - anchors[a, 1] - anchors[a, 3]) / 2 / ha,
                (wg / wa).log(),
                (hg / ha).log(),
            ]
            for predicted, wanted in zip(targets[a], goal, strict=True):
                x = abs((predicted - wanted).item())
                box += 4.5 * x * x if x < 1 / 9 else x - 0.5 / 9  # σ = 3
    return objectness / max(learning, 1), box / max(learning, 1)


def test_losses_equal_a_slow_loop_over_all_anchors() -> None:
    network = tiny_rpn(samples=10_000, positive_share=1.0)
    whole = batch(OBJECTS, LABELS, sizes=[(96, 128), (80, 120), (96, 128)])
    losses = network(whole)
    for image in range(3):
        expected = losses_slowly(network, whole, image)
        assert losses["objectness"][image].item() == pytest.approx(expected[0], rel=1e-5)
        assert losses["box"][image].item() == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("crowd_overlap", [None, 0.7])
def test_crowd_regions_are_no_targets_and_shield_the_background_if_told_so(crowd_overlap: float | None) -> None:
    network = tiny_rpn(samples=10_000, positive_share=1.0, crowd_overlap=crowd_overlap)
    whole = batch(
        [[[10, 10, 60, 50], [40, 0, 128, 96]], [[0, 0, 90, 90]]], [[1, 2], [1]], crowds=[[False, True], [True]]
    )
    losses = network(whole)
    for image in range(2):
        expected = losses_slowly(network, whole, image, crowd_overlap=crowd_overlap)
        assert losses["objectness"][image].item() == pytest.approx(expected[0], rel=1e-5)
        assert losses["box"][image].item() == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


def test_an_images_loss_does_not_depend_on_the_rest_of_its_batch() -> None:
    network = tiny_rpn(samples=32)
    whole = batch(OBJECTS, LABELS)
    together = network(whole)
    for image in range(3):
        alone = network(part(whole, image))
        for name in ("objectness", "box"):
            torch.testing.assert_close(alone[name][0], together[name][image])


@odd_objects
def test_losses_and_gradients_are_finite(boxes: list, labels: list, crowds: list | None) -> None:
    assert_losses_and_gradients_are_finite(tiny_rpn(norm="batch"), batch(boxes, labels, crowds=crowds))


def test_an_images_sample_does_not_depend_on_its_padding() -> None:
    network = tiny_rpn()
    narrow, wide = (network.backbone(torch.zeros(1, 3, 96, width))["c4"] for width in (96, 160))
    kinds = []
    for features in (narrow, wide):
        anchors, sizes = network.anchors([features]), torch.tensor([[96, 96]])
        boxes, labels = torch.tensor([[[10.0, 10, 60, 50]]]), torch.tensor([[1]])
        kind, _ = network.assign(anchors, boxes, labels, torch.zeros(1, 1, dtype=torch.bool), sizes)
        position, valid = sample(kind, torch.tensor([7]), 32, 0.5, network.anchors.names([features]))
        kinds.append({tuple(anchor) for anchor in anchors[position[valid]].tolist()})
    assert kinds[0] == kinds[1]


def test_half_precision_gives_nearly_the_same_losses() -> None:
    network, whole = tiny_rpn(), batch(OBJECTS, LABELS)
    expected = network(whole)
    with torch.autocast("cpu", torch.bfloat16):
        losses = network(whole)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=0.02, rtol=0.05)


def test_training_computes_no_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("decoded or suppressed boxes while training")

    network = tiny_rpn()
    network.kernels = dataclasses.replace(network.kernels, suppress=forbidden)
    monkeypatch.setattr(network.coder, "decode", forbidden)
    network(batch(OBJECTS, LABELS))


class _OurAnchors(nn.Module):
    """Hands torchvision's RPN the anchors that ours uses; its own generator rounds them and centres them on cell
    corners."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__()
        self.anchors = anchors

    def forward(self, images: ImageList, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self.anchors(maps)] * len(images.image_sizes)

    def num_anchors_per_location(self) -> list[int]:
        return [self.anchors.per_position]


@pytest.mark.parametrize("sizes", [[(96, 128), (96, 128)], [(96, 100), (70, 128)]])
def test_proposals_are_torchvisions_given_the_same_weights_and_features(sizes: list[tuple[int, int]]) -> None:
    network = tiny_rpn().eval()
    head = RPNHead(128, network.anchors.per_position)
    head.conv[0][0].load_state_dict(network.head.conv.state_dict())
    head.cls_logits.load_state_dict(network.head.objectness.state_dict())
    head.bbox_pred.load_state_dict(network.head.box.state_dict())
    limits = {"training": 100, "testing": 100}
    theirs = RegionProposalNetwork(
        _OurAnchors(network.anchors), head, 0.7, 0.3, 256, 0.5, {"training": 200, "testing": 200}, limits, 0.7
    ).eval()
    theirs.min_size = 5.0
    whole = batch(OBJECTS[:2], LABELS[:2], sizes=sizes)
    with torch.no_grad():
        features = network.backbone(prepare(whole.images, whole.sizes, network.backbone.input_format))
        expected, _ = theirs(ImageList(whole.images, sizes), features)
    ours = network.propose(
        whole.images, whole.sizes, before_nms=200, after_nms=100, nms_iou=0.7, min_sides=torch.full((2, 2), 5.0)
    )
    for image in range(2):
        assert ours.counts[image] == len(expected[image]) > 20
        torch.testing.assert_close(ours.boxes[image, : ours.counts[image]], expected[image], atol=1e-3, rtol=0)
        assert (ours.boxes[image, ours.counts[image] :] == 0).all()
        assert (ours.scores[image].diff() <= 0).all()


def test_proposals_do_not_depend_on_the_padding_or_the_batch() -> None:
    """An image alone and the same image padded in a batch: the padding is zero after normalisation, as a
    convolution's own is."""
    network = tiny_rpn().eval()
    whole = batch([[], []], [[], []], size=(96, 128), sizes=[(96, 96), (96, 128)])
    together = network.propose(whole.images, whole.sizes, before_nms=None, after_nms=20)
    whole.images[0, :, :, 96:] = 255  # whatever stands in the padding is not looked at
    again = network.propose(whole.images, whole.sizes, before_nms=None, after_nms=20)
    assert torch.equal(together.boxes, again.boxes)


def test_several_levels_take_the_best_of_each() -> None:
    torch.manual_seed(0)
    backbone = tiny_backbone(outputs=("c4",))

    class TwoLevels(nn.Module):
        channels, strides = {"p4": 128, "p5": 128}, {"p4": 16, "p5": 32}
        input_format = backbone.input_format

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            fine = backbone(images)["c4"]
            return {"p4": fine, "p5": nn.functional.max_pool2d(fine, 2, ceil_mode=True)}

    # type: ignore[arg-type]
    network = RPN(TwoLevels(), Anchors([[24], [48]], (0.5, 1.0, 2.0), [16, 32]), channels=32).eval()
    whole = batch(OBJECTS, LABELS)
    proposals = network.propose(whole.images, whole.sizes, before_nms=30, after_nms=1000, nms_iou=1.0)
    sides = (proposals.boxes[0, :, 2:] - proposals.boxes[0, :, :2]).prod(dim=1).sqrt()
    assert proposals.counts.max() <= 30 + 4 * 2 * 3 + 6
    assert (sides < 30).any()
    assert (sides > 40).any()
    sum(value.sum() for value in network(whole).values()).backward()


def test_levels_of_unequal_width_and_wrong_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="equal width"):
        RPN(tiny_backbone(outputs=("c3", "c4")), Anchors([[32], [64]], [1.0], [8, 16]))
    with pytest.raises(ValueError, match="strides"):
        RPN(tiny_backbone(), Anchors([[32]], [1.0], [8]))


def test_min_side_is_measured_in_each_direction() -> None:
    network = tiny_rpn().eval()
    whole = batch([[]], [[]])
    proposals = network.propose(
        whole.images, whole.sizes, before_nms=None, after_nms=500, min_sides=torch.tensor([[30.0, 10.0]])
    )
    kept = proposals.boxes[0, : proposals.counts[0]]
    assert len(kept) > 0
    assert (kept[:, 3] - kept[:, 1]).min() >= 30
    assert (kept[:, 2] - kept[:, 0]).min() < 30


def test_a_network_of_its_own() -> None:
    """Two copies share nothing: changing one leaves the other as it was."""
    network = tiny_rpn()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert not torch.equal(next(network.parameters()), next(other.parameters()))


def test_small_boxes_are_dropped_before_the_best_are_taken() -> None:
    """py-faster-rcnn's order, against a slow loop: with a limit of 40, the best 40 of the large boxes go into NMS."""
    network = tiny_rpn().eval()
    whole = batch([[]], [[]])
    logits, targets, anchors, _ = network.predict(whole.images, whole.sizes)
    decoded = box_ops.clip(network.coder.decode(targets, anchors), whole.sizes)[0]
    least = 30.0
    large = [i for i, box in enumerate(decoded.tolist()) if box[2] - box[0] >= least and box[3] - box[1] >= least]
    best = sorted(large, key=lambda i: -logits[0, i].item())[:40]
    kept = torchvision.ops.nms(decoded[best], logits[0, best], 0.7)[:20]
    found = network.propose(
        whole.images, whole.sizes, before_nms=40, after_nms=20, nms_iou=0.7, min_sides=torch.tensor([[least, least]])
    )
    torch.testing.assert_close(found.boxes[0, : found.counts[0]], decoded[best][kept])
    ranked = logits[0].argsort(descending=True)[:40].tolist()
    assert not set(ranked) <= set(large)  # with the other order, fewer than 40 would have gone into NMS
