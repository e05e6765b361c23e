"""The cascade: losses and detections against a slow walk through its stages, with torchvision's operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection._utils import BoxCoder as PeerCoder

from detection.config import Config
from detection.config_file import load_config
from detection.experiment.builders import build_fast_rcnn
from detection.experiment.model_files import Categories, Trained, load_fast_rcnn, save_fast_rcnn
from detection.kernels.choice import CPU, use_kernels
from detection.networks.cascade import CascadeRCNN
from tests.detection.geometry.test_boxes import random_boxes
from tests.detection.networks.test_fast_rcnn import LABELS, OBJECTS, around
from tests.detection.tiny_networks import TINY, batch, spread

C4 = ["fast_rcnn.pooling=align", "fast_rcnn.pooled_size=6"]
PYRAMID = [
    "backbone.features=pyramid", "backbone.pyramid_width=16", "rpn.anchor_sizes=[16,24,32,48,64]",
    "fast_rcnn.box_head_width=32", "fast_rcnn.pooling=align", "fast_rcnn.pooled_size=4",
]  # fmt: skip
HEADS = {
    "conv5": C4,
    "two_layers": [*PYRAMID, "fast_rcnn.box_head=two_layers"],
    "four_convolutions": [*PYRAMID, "fast_rcnn.box_head=four_convolutions", "fast_rcnn.box_head_channels=16"],
}


def configured(*changes: str) -> Config:
    structure = [f"backbone.{key}={list(value) if isinstance(value, tuple) else value}" for key, value in TINY.items()]
    fixed = ["data.layout=coco", "backbone.weights=null", "backbone.freeze=null", "backbone.norm=group"]
    return load_config(None, [*fixed, *structure, *changes])


def cascade(*changes: str) -> CascadeRCNN:
    torch.manual_seed(0)
    network = build_fast_rcnn(configured(*changes), 3)
    assert isinstance(network, CascadeRCNN)
    use_kernels(network, CPU)
    spread(network)
    return network


def outputs(network: CascadeRCNN, number: int, whole: Any, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and box targets of one stage for the regions (R, 4) of the batch's only image."""
    head: Any = network if number == 0 else network.further[number - 1]
    features = head.box_head(network.feature_maps(whole.images, whole.sizes), regions[None])
    return head.class_logits(features).detach(), head.box_targets(features).detach()


def refined(targets: Tensor, regions: Tensor, number: int, size: tuple[int, int] = (96, 128)) -> Tensor:
    weights = tuple(weight * (number + 1) for weight in (10.0, 10.0, 5.0, 5.0))
    decoded = PeerCoder(weights).decode_single(targets, regions)  # type: ignore[arg-type]
    return torchvision.ops.clip_boxes_to_image(decoded, size)


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_those_of_a_slow_walk(head: str) -> None:
    """With room for every candidate no draw decides; the stages' IoUs are low, as untrained boxes stay coarse."""
    changes = ["fast_rcnn.cascade=[0.55, 0.6]", "fast_rcnn.samples=1000", "fast_rcnn.positive_share=1.0"]
    network = cascade(*HEADS[head], *changes)
    whole = batch(OBJECTS[:1], LABELS[:1], proposals=around(OBJECTS[:1], 30))
    losses = network(whole)
    assert list(losses) == ["class", "box", "class_2", "box_2", "class_3", "box_3"]
    regions = network.sample_regions(whole).regions[0]
    assert len(regions) == 32
    objects = 0
    for number, threshold in enumerate((0.5, 0.55, 0.6)):
        logits, targets = outputs(network, number, whole, regions)
        expected_class = expected_box = 0.0
        weights = tuple(weight * (number + 1) for weight in (10.0, 10.0, 5.0, 5.0))
        for r, region in enumerate(regions):
            overlaps = torchvision.ops.box_iou(region[None], whole.boxes[0])[0]
            best = int(overlaps.argmax())
            label = LABELS[0][best] if overlaps[best] >= threshold else 0
            expected_class -= logits[r].double().log_softmax(0)[label].item()
            if label:
                objects += number > 0
                goal = PeerCoder(weights).encode_single(whole.boxes[0, best : best + 1], region[None])[0]  # type: ignore[arg-type]
                expected_box += functional.smooth_l1_loss(targets[r], goal, reduction="sum").item()
        end = "" if number == 0 else f"_{number + 1}"
        assert losses[f"class{end}"].item() == pytest.approx(0.5**number * expected_class / len(regions), rel=1e-4)
        assert losses[f"box{end}"].item() == pytest.approx(0.5**number * expected_box / len(regions), rel=1e-4)
        regions = refined(targets, regions, number)
    assert objects > 0
    sum(value.sum() for value in losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", HEADS)
def test_detections_have_the_mean_score_of_the_stages_and_the_last_one_s_box(head: str) -> None:
    network = cascade(*HEADS[head], "fast_rcnn.cascade=[0.6]").eval()
    whole = batch(OBJECTS[:1], LABELS[:1])
    regions = random_boxes(1, 40, seed=4, extent=70.0)[0]
    first_logits, first_targets = outputs(network, 0, whole, regions)
    second = refined(first_targets, regions, 0)
    logits, targets = outputs(network, 1, whole, second)
    scores = (first_logits.softmax(1) + logits.softmax(1))[:, 1:] / 2
    boxes = refined(targets, second, 1)[:, None].expand(-1, 3, -1).flatten(0, 1)
    kept = torchvision.ops.batched_nms(boxes, scores.flatten(), torch.arange(3).repeat(40), 0.3)
    (found,) = network.detect(
        whole.images, whole.sizes, regions[None], torch.tensor([40]), min_score=0.0, nms_iou=0.3, limit=500
    )
    assert len(found.scores) == len(kept) > 20
    torch.testing.assert_close(found.scores, scores.flatten()[kept], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.boxes, boxes[kept], atol=1e-3, rtol=0)


def test_an_image_without_objects_or_proposals_trains_every_stage() -> None:
    network = cascade(*C4, "fast_rcnn.cascade=[0.6, 0.7]", "fast_rcnn.box_loss=giou")
    for proposals in (torch.zeros(1, 0, 4), random_boxes(1, 10, extent=90.0)):
        losses = network(batch([[]], [[]], proposals=proposals))
        assert all(value.isfinite().all() for value in losses.values())
        sum(value.sum() for value in losses.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    whole = batch([[]], [[]])
    network.eval()
    found = network.detect(whole.images, whole.sizes, torch.zeros(1, 3, 4), torch.tensor([0]), min_score=0.0)
    assert len(found[0].scores) == 0


@pytest.mark.parametrize("head", ["conv5", "two_layers"])
def test_a_file_holds_every_stage(head: str, tmp_path: Path) -> None:
    changes = [*HEADS[head], "fast_rcnn.cascade=[0.6, 0.7]"]
    network, config = cascade(*changes).eval(), configured(*changes)
    names = set(network.state_dict())
    assert {"class_logits.weight", "further.0.class_logits.weight", "further.1.box_targets.bias"} <= names
    save_fast_rcnn(tmp_path / "fastrcnn.pt", Trained(network, config, Categories((1, 2, 3), ("a", "b", "c"))))
    loaded = load_fast_rcnn(tmp_path / "fastrcnn.pt")
    assert isinstance(loaded.network, CascadeRCNN)
    assert loaded.network.positive_ious == (0.6, 0.7)
    use_kernels(loaded.network, CPU)
    whole = batch(OBJECTS[:1], LABELS[:1])
    arguments = (whole.images, whole.sizes, random_boxes(1, 20, extent=90.0), torch.tensor([20]))
    (expected,), (found,) = network.detect(*arguments), loaded.network.detect(*arguments)
    assert len(expected.scores) > 0
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


def test_the_outputs_of_a_single_head_are_not_offered() -> None:
    network, whole = cascade(*C4, "fast_rcnn.cascade=[0.6]"), batch([[]], [[]])
    with pytest.raises(TypeError, match="use score or detect"):
        network.predict(whole.images, whole.sizes, torch.zeros(1, 1, 4))


def test_each_stage_of_c4_starts_from_the_same_conv5() -> None:
    network = cascade(*C4, "fast_rcnn.cascade=[0.6]")
    first = dict(network.box_head.named_parameters())  # type: ignore[attr-defined]
    second = dict(network.further[0].box_head.named_parameters())  # type: ignore[union-attr,operator]
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) and value is not second[name] for name, value in first.items())
