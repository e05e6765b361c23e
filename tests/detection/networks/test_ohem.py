"""Online hard example mining: the regions that are learnt from are the hardest by a slow loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torchvision.ops import box_iou

from detection.kernels.choice import CUDA, PLAIN, use_kernels
from detection.networks.fast_rcnn import FastRCNN
from tests.detection.networks.test_fast_rcnn import LABELS, OBJECTS, around
from tests.detection.tiny_networks import batch, tiny_fast_rcnn


def crowded() -> Any:
    whole = batch(OBJECTS, LABELS, proposals=around(OBJECTS, 60))
    whole.proposal_counts = torch.tensor([60, 40, 25])
    return whole


def slow_hardest(network: FastRCNN, whole: Any, image: int) -> list[list[float]]:
    """All regions of an image by their loss, hardest first, without those that overlap a harder one by more than 0.7:
    at most S of them."""
    count, objects = int(whole.proposal_counts[image]), len(LABELS[image])
    regions = torch.cat([whole.proposals[image, :count], whole.boxes[image, :objects]])
    logits, targets = network.predict(whole.images[image : image + 1], whole.sizes[image : image + 1], regions[None])
    losses = []
    for r, region in enumerate(regions):
        overlaps = box_iou(region[None], whole.boxes[image, :objects])[0].tolist()
        best = max(range(objects), key=lambda g: overlaps[g]) if objects else 0
        label = LABELS[image][best] if objects and overlaps[best] >= 0.5 else 0
        loss = -logits[r].detach().log_softmax(0)[label].item()
        if label:
            goal = network.coder.encode(whole.boxes[image, best], region)
            loss += functional.smooth_l1_loss(targets[r, label - 1].detach(), goal, reduction="sum").item()
        losses.append(loss)
    kept: list[int] = []
    for r in sorted(range(len(regions)), key=lambda r: -losses[r]):
        if all(box_iou(regions[r : r + 1], regions[k : k + 1]).item() <= 0.7 for k in kept):
            kept.append(r)
    return [regions[r].tolist() for r in kept[: network.samples]]


@pytest.mark.parametrize("samples", [6, 16])
def test_the_hardest_regions_are_those_of_a_slow_loop(samples: int) -> None:
    network, whole = tiny_fast_rcnn(samples=samples, sampling="ohem"), crowded()
    goal = network.hardest(network.feature_maps(whole.images, whole.sizes), network.all_regions(whole))
    for image in range(3):
        expected = slow_hardest(network, whole, image)
        assert goal.regions[image][goal.valid[image]].tolist() == expected
        assert len(expected) == samples


def test_losses_are_taken_over_them_and_gradients_reach_every_weight() -> None:
    network, whole = tiny_fast_rcnn(samples=16, sampling="ohem"), crowded()
    losses = network(whole)
    goal = network.hardest(network.feature_maps(whole.images, whole.sizes), network.all_regions(whole))
    logits, _ = network.predict(whole.images, whole.sizes, goal.regions)
    mistakes = functional.cross_entropy(logits, goal.labels.flatten(), reduction="none").view(3, -1)
    torch.testing.assert_close(losses["class"], mistakes.mean(dim=1))
    random = tiny_fast_rcnn(samples=16)(whole)
    assert (sum(losses.values()) > sum(random.values())).all(), "the hardest are harder than a draw"
    sum(value.sum() for value in losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad)


def test_looking_at_all_regions_leaves_running_statistics_and_the_mode_alone() -> None:
    network, whole = tiny_fast_rcnn(samples=8, sampling="ohem", norm="batch"), crowded()
    before = {name: value.clone() for name, value in network.box_head.named_buffers()}  # type: ignore[attr-defined]
    maps = network.feature_maps(whole.images, whole.sizes)
    network.hardest(maps, network.all_regions(whole))
    after = dict(network.box_head.named_buffers())  # type: ignore[attr-defined]
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert network.box_head.training  # type: ignore[attr-defined]


def test_every_device_s_kernels_choose_the_same() -> None:
    network, whole = tiny_fast_rcnn(samples=16, sampling="ohem"), crowded()
    expected = network(whole)
    for kernels in (PLAIN, CUDA):
        use_kernels(network, kernels)
        for name, loss in network(whole).items():
            torch.testing.assert_close(loss, expected[name])


def test_crowds_and_padding_are_never_hard_and_nothing_at_all_trains() -> None:
    network = tiny_fast_rcnn(samples=8, sampling="ohem")
    proposals = torch.tensor([[[20.0, 20, 40, 40], [100.0, 70, 120, 90], [0, 0, 0, 0]]])
    whole = batch([[[10, 10, 90, 60]]], [[1]], crowds=[[True]], proposals=proposals)
    whole.proposal_counts = torch.tensor([2])
    goal = network.hardest(network.feature_maps(whole.images, whole.sizes), network.all_regions(whole))
    assert goal.regions[goal.valid].tolist() == [[100, 70, 120, 90]]
    losses = network(batch(OBJECTS[2:], LABELS[2:], proposals=torch.zeros(1, 0, 4)))
    assert all(value.isfinite().all() for value in losses.values())
