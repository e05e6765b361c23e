"""The Fast R-CNN's losses against a slow loop and torchvision's, its detections against torchvision's RoIHeads."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from detection.networks.fast_rcnn import FastRCNN
from detection.networks.network_input import prepare
from tests.detection.geometry.test_boxes import random_boxes
from tests.detection.tiny_networks import (
    LABELS,
    OBJECTS,
    assert_losses_and_gradients_are_finite,
    batch,
    odd_objects,
    part,
    tiny_fast_rcnn,
)


def around(objects: list[list[list[float]]], count: int, seed: int = 0) -> torch.Tensor:
    """Proposals (N, count, 4): half of them near an object, where there is one, half anywhere."""
    generator = torch.Generator().manual_seed(seed)
    proposals = random_boxes(len(objects), count, seed=seed, extent=90.0)
    for image, own in enumerate(objects):
        if own:
            near = torch.tensor(own, dtype=torch.float32)[torch.arange(count // 2) % len(own)]
            proposals[image, : count // 2] = near + torch.randn(count // 2, 4, generator=generator) * 4
    return proposals


def test_losses_equal_a_slow_loop() -> None:
    """With room for every candidate, what is learnt is known without any sampling: one region at a time, from the words
    of Fast R-CNN section 2.3."""
    network = tiny_fast_rcnn(samples=1000, positive_share=1.0)
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 30))
    losses = network(whole)
    for image in range(3):
        number = len(OBJECTS[image])
        regions = torch.cat([whole.proposals[image], whole.boxes[image, :number]])
        logits, targets = network.predict(
            whole.images[image : image + 1], whole.sizes[image : image + 1], regions[None]
        )
        expected_class, expected_box = 0.0, 0.0
        for r in range(len(regions)):
            overlaps = [
                torchvision.ops.box_iou(whole.boxes[image, g : g + 1].double(), regions[r : r + 1].double()).item()
                for g in range(number)
            ]
            best = max(range(number), key=lambda g: overlaps[g]) if number else 0
            label = LABELS[image][best] if number and overlaps[best] >= 0.5 else 0
            expected_class -= logits[r].detach().double().log_softmax(0)[label].item()
            if label:
                box, region = whole.boxes[image, best].double(), regions[r].double()
                size, own = box[2:] - box[:2], region[2:] - region[:2]
                shift = (box[:2] + box[2:] - region[:2] - region[2:]) / 2 / own
                goal = torch.cat([shift / 0.1, (size / own).log() / 0.2])
                difference = (targets[r, label - 1].detach().double() - goal).abs()
                expected_box += torch.where(difference < 1, difference**2 / 2, difference - 0.5).sum().item()
        assert losses["class"][image].item() == pytest.approx(expected_class / len(regions), rel=1e-4)
        assert losses["box"][image].item() == pytest.approx(expected_box / len(regions), rel=1e-4, abs=1e-7)


def test_losses_are_torchvisions_for_the_same_regions() -> None:
    network = tiny_fast_rcnn(samples=16, smooth_l1_beta=1 / 9)
    whole = batch(OBJECTS[:1], LABELS[:1], proposals=around(OBJECTS[:1], 60))
    regions, labels, boxes, valid = network.sample_regions(whole)
    assert valid.all()
    logits, targets = network.predict(whole.images, whole.sizes, regions)
    with_background = torch.cat([torch.zeros(16, 1, 4), targets], dim=1).flatten(1)
    goal = torchvision.models.detection._utils.BoxCoder((10, 10, 5, 5)).encode_single(boxes[0], regions[0])
    expected_class, expected_box = fastrcnn_loss(logits, with_background, [labels[0]], [goal])
    losses = network(whole)
    torch.testing.assert_close(losses["class"][0], expected_class)
    torch.testing.assert_close(losses["box"][0], expected_box)


def test_a_quarter_of_the_sample_at_most_are_objects_and_ground_truth_joins() -> None:
    network = tiny_fast_rcnn(samples=64)
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 200))
    _, labels, _, valid = network.sample_regions(whole)
    assert valid.all()
    assert (labels > 0).sum(dim=1).tolist() == [16, 16, 0]
    far = batch([[[0, 0, 10, 10]]], [[2]], proposals=torch.tensor([[[80.0, 60, 120, 90]] * 70]))
    regions, labels, _, _ = network.sample_regions(far)
    assert labels[0].tolist() == [2] + [0] * 63
    assert regions[0, 0].tolist() == [0, 0, 10, 10]


def test_background_low_leaves_easy_background_out() -> None:
    network = tiny_fast_rcnn(samples=64, background_low=0.1)
    proposals = torch.tensor([[[10.0, 10, 60, 50], [30.0, 10, 95, 50], [90.0, 60, 120, 90]]])
    regions, labels, _, valid = network.sample_regions(batch([[[10, 10, 60, 50]]], [[1]], proposals=proposals))
    drawn = {
        tuple(region): label for region, label in zip(regions[valid].tolist(), labels[valid].tolist(), strict=True)
    }
    assert drawn == {(10, 10, 60, 50): 1, (30, 10, 95, 50): 0}


def test_proposals_inside_a_crowd_take_no_part_but_objects_there_do() -> None:
    proposals = torch.tensor([[[20.0, 20, 40, 40], [100.0, 70, 120, 90]]])
    whole = batch([[[10, 10, 90, 60], [22, 22, 40, 40]]], [[1, 2]], crowds=[[True, False]], proposals=proposals)
    regions, labels, _, valid = tiny_fast_rcnn(samples=8, positive_share=1.0).sample_regions(whole)
    drawn = {
        tuple(region): label for region, label in zip(regions[valid].tolist(), labels[valid].tolist(), strict=True)
    }
    assert drawn == {(22, 22, 40, 40): 2, (100, 70, 120, 90): 0}
    regions, labels, _, valid = tiny_fast_rcnn(samples=8, positive_share=1.0, crowd_overlap=None).sample_regions(whole)
    assert (20, 20, 40, 40) in {tuple(region) for region in regions[valid].tolist()}


def test_padding_among_the_proposals_is_never_drawn() -> None:
    whole = batch(OBJECTS[:1], LABELS[:1], proposals=torch.zeros(1, 10, 4))
    whole.proposals[0, :2] = torch.tensor([[5.0, 5, 20, 20], [60.0, 60, 90, 90]])
    whole.proposal_counts = torch.tensor([2])
    regions, _, _, valid = tiny_fast_rcnn().sample_regions(whole)
    assert valid.sum() == 4
    assert (regions[valid][:, 2] > 0).all()


def test_an_images_loss_does_not_depend_on_the_rest_of_its_batch() -> None:
    network = tiny_fast_rcnn(samples=16)
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 40))
    whole.proposal_counts = torch.tensor([40, 25, 30])
    together = network(whole)
    for image in range(3):
        own = part(whole, image)
        own.proposals = own.proposals[:, : own.proposal_counts[0]]  # alone, it is padded less
        own.boxes, own.labels, own.crowds = (
            rows[:, : max(1, len(LABELS[image]))] for rows in (own.boxes, own.labels, own.crowds)
        )
        alone = network(own)
        for name in ("class", "box"):
            torch.testing.assert_close(alone[name][0], together[name][image])


@pytest.mark.parametrize("pooling", ["align", "max"])
@odd_objects
def test_losses_and_gradients_are_finite(boxes: list, labels: list, crowds: list | None, pooling: str) -> None:
    network = tiny_fast_rcnn(norm="batch", pooling=pooling)
    given = batch(boxes, labels, crowds=crowds, proposals=random_boxes(1, 30, extent=90.0))
    assert_losses_and_gradients_are_finite(network, given)


def test_an_image_without_any_proposal_still_trains() -> None:
    whole = batch(OBJECTS[:2], LABELS[:2], proposals=torch.zeros(2, 0, 4))
    losses = tiny_fast_rcnn()(whole)
    assert all(value.isfinite().all() for value in losses.values())


@pytest.mark.parametrize("pooling", ["align", "max"])
def test_half_precision_gives_nearly_the_same_losses(pooling: str) -> None:
    network, whole = tiny_fast_rcnn(pooling=pooling), batch(OBJECTS, LABELS, proposals=around(OBJECTS, 40))
    expected = network(whole)
    with torch.autocast("cpu", torch.bfloat16):
        losses = network(whole)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], atol=0.05, rtol=0.05)


def test_no_proposals_in_the_batch_is_said() -> None:
    with pytest.raises(ValueError, match="proposals"):
        tiny_fast_rcnn()(batch(OBJECTS, LABELS))


class _Predictor(nn.Module):
    """Our output layers in torchvision's layout, which has box targets for the background too."""

    def __init__(self, network: FastRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        targets = self.network.box_targets(features)
        return self.network.class_logits(features), torch.cat([torch.zeros(len(features), 4), targets], dim=1)


@pytest.mark.parametrize("sizes", [[(96, 128), (96, 128)], [(96, 100), (70, 128)]])
def test_detections_are_torchvisions_given_the_same_weights_and_features(sizes: list[tuple[int, int]]) -> None:
    network = tiny_fast_rcnn(classes=4).eval()
    nn.init.normal_(network.class_logits.weight, std=0.5)

    def pool(features: dict[str, torch.Tensor], boxes: list[torch.Tensor], _: object) -> torch.Tensor:
        return torchvision.ops.roi_align(features["c4"], boxes, 6, 1 / 16, 2, aligned=True)

    def head(pooled: torch.Tensor) -> torch.Tensor:
        return network.box_head.conv5(pooled).mean(dim=(2, 3))

    theirs = RoIHeads(
        pool, head, _Predictor(network), 0.5, 0.5, 64, 0.25, (10.0, 10.0, 5.0, 5.0), 0.05, 0.3, 100
    ).eval()
    whole = batch(OBJECTS[:2], LABELS[:2], sizes=sizes)
    proposals = random_boxes(2, 80, seed=4, extent=70.0)
    with torch.no_grad():
        features = network.trunk(prepare(whole.images, whole.sizes, network.trunk.input_format))
        expected, _ = theirs(features, list(proposals), sizes)
    ours = network.detect(
        whole.images, whole.sizes, proposals, torch.tensor([80, 80]), min_score=0.05, nms_iou=0.3, limit=100
    )
    for own, other in zip(ours, expected, strict=True):
        assert len(own.scores) == len(other["scores"]) > 20
        torch.testing.assert_close(own.boxes, other["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(own.scores, other["scores"], atol=1e-5, rtol=0)
        assert torch.equal(own.labels, other["labels"])


def test_detecting_in_images_without_proposals_finds_nothing() -> None:
    network = tiny_fast_rcnn().eval()
    whole = batch(OBJECTS[:2], LABELS[:2])
    found = network.detect(whole.images, whole.sizes, torch.zeros(2, 0, 4), torch.tensor([0, 0]))
    assert [len(one.scores) for one in found] == [0, 0]
    padded = network.detect(whole.images, whole.sizes, torch.zeros(2, 5, 4), torch.tensor([0, 0]), min_score=0.0)
    assert [len(one.scores) for one in padded] == [0, 0]


def test_limit_keeps_the_best() -> None:
    network = tiny_fast_rcnn().eval()
    whole = batch(OBJECTS[:1], LABELS[:1])
    arguments = (whole.images, whole.sizes, random_boxes(1, 50, extent=90.0), torch.tensor([50]))
    every = network.detect(*arguments, limit=1000)[0]
    few = network.detect(*arguments, limit=7)[0]
    assert len(every.scores) > 7
    assert torch.equal(few.scores, every.scores[:7])
    assert (every.scores.diff() <= 0).all()
