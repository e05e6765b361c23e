"""Both networks on a feature pyramid against torchvision's Faster R-CNN with one, on the same weights: proposals,
losses, gradients, detections."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN as Peer
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign

from backbones.common.errors import UserError
from detection.config import Config
from detection.config_file import load_config
from detection.experiment.builders import build_fast_rcnn, build_rpn
from detection.kernels.choice import CPU, PLAIN, use_kernels
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.network_input import prepare
from detection.networks.rpn import RPN
from detection.networks.torchvision_weights import from_torchvision
from tests.detection.tiny_networks import batch, spread

CONFIG = Path(__file__).parents[3] / "configs" / "pyramid" / "resnet50.yaml"
CLASSES = 4
OBJECTS = [[[10.0, 10, 60, 50], [64, 20, 180, 150], [5, 70, 30, 90]], [[30.0, 30, 55, 58]]]
LABELS = [[1, 2, 4], [3]]


class Aligned(MultiScaleRoIAlign):
    """torchvision's pooling of several levels by its own operator, aligned to pixel centres."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sequence[tuple[int, int]]) -> Tensor:
        maps = [x[name] for name in ("0", "1", "2", "3")]
        super().forward(x, boxes, list(image_shapes))  # it finds its levels
        levels = self.map_levels(boxes)  # type: ignore[misc]
        rois = torch.cat([torch.cat([torch.full_like(own[:, :1], i), own], 1) for i, own in enumerate(boxes)])
        pooled = torch.zeros(len(rois), maps[0].shape[1], 7, 7)
        for level, features in enumerate(maps):
            own = levels == level
            scale = 1 / (4 * 2**level)
            pooled[own] = torchvision.ops.roi_align(features, rois[own], 7, scale, 2, aligned=True)
        return pooled


@pytest.fixture(scope="module")
def config() -> Config:
    changes = ["rpn.anchor_offset=0", "rpn.anchor_rounding=true", "rpn.allowed_border=null", "backbone.freeze=stem"]
    changes += ["fast_rcnn.smooth_l1_beta=0.1111111111111111"]
    return load_config(CONFIG, changes)


@pytest.fixture(scope="module")
def networks(config: Config) -> tuple[RPN, FastRCNN, Peer]:
    torch.manual_seed(0)
    peer = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, trainable_backbone_layers=5,
        rpn_pre_nms_top_n_test=200, rpn_post_nms_top_n_test=100, box_score_thresh=0.2, box_nms_thresh=0.5,
    )  # fmt: skip
    for name, layer in peer.named_modules():
        if name.split(".")[-1] in ("cls_logits", "bbox_pred", "cls_score"):
            # Answers differ from box to box, and boxes stay in the image.
            nn.init.normal_(layer.weight, std=0.02 if name.endswith("score") else 0.002)
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        peer.backbone.train()(torch.randn(2, 3, 128, 192))
    for module in list(peer.backbone.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                frozen = torchvision.ops.FrozenBatchNorm2d(child.num_features)
                frozen.load_state_dict(child.state_dict(), strict=False)
                setattr(module, child_name, frozen)
    peer.roi_heads.box_roi_pool = Aligned(["0", "1", "2", "3"], 7, 2)
    rpn, fast_rcnn = build_rpn(config, pretrained=False), build_fast_rcnn(config, CLASSES, pretrained=False)
    for network, state in zip((rpn, fast_rcnn), from_torchvision(peer.state_dict()), strict=True):
        network.load_state_dict(state)
        use_kernels(network, CPU)
    return rpn.eval(), fast_rcnn.eval(), peer.eval()


def shown(networks: tuple[RPN, FastRCNN, Peer], whole: object) -> tuple[ImageList, dict[str, Tensor]]:
    """The images and maps of torchvision's, of what ours are shown."""
    rpn, _, peer = networks
    prepared = prepare(whole.images, whole.sizes, rpn.backbone.input_format)  # type: ignore[attr-defined]
    sizes = [tuple(size) for size in whole.sizes.tolist()]  # type: ignore[attr-defined]
    return ImageList(prepared, sizes), peer.backbone(prepared)


@pytest.mark.parametrize(
    ("size", "own_size", "before_nms"),
    [
        ((192, 256), (192, 256), 200),
        ((64, 96), (64, 96), 200),
        ((32, 32), (32, 32), 200),  # smaller than a cell of p6
        ((192, 256), (180, 200), 100_000),  # torchvision drops boxes in the padding after the best are taken
    ],
)
def test_proposals_are_torchvisions_in_the_same_order(
    networks: tuple[RPN, FastRCNN, Peer], size: tuple[int, int], own_size: tuple[int, int], before_nms: int
) -> None:
    rpn, _, peer = networks
    whole = batch([[], []], [[], []], size=size, sizes=[size, own_size])
    peer.rpn._pre_nms_top_n["testing"] = before_nms
    with torch.no_grad():
        expected, _ = peer.rpn(*shown(networks, whole))
    found = rpn.propose(whole.images, whole.sizes, before_nms=before_nms, after_nms=100)
    for image, boxes in enumerate(expected):
        assert found.counts[image] == len(boxes) > 0
        torch.testing.assert_close(found.boxes[image, : len(boxes)], boxes, atol=1e-3, rtol=0)


def test_losses_and_gradients_of_the_rpn_are_torchvisions(
    networks: tuple[RPN, FastRCNN, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both look at every anchor, so that no draw decides; in float64, as rounding grows through fifty random layers."""
    rpn, peer = (copy.deepcopy(network).double() for network in networks[::2])
    monkeypatch.setattr("detection.networks.rpn.prepare", lambda *arguments: prepare(*arguments).double())
    whole = batch(OBJECTS, LABELS, size=(192, 192))
    maps = [torch.empty(1, 1, 192 // stride, 192 // stride) for stride in (4, 8, 16, 32, 64)]
    anchors = rpn.anchors(maps)
    rpn.samples, rpn.positive_share = 2 * len(anchors), 0.5
    peer.rpn.fg_bg_sampler.batch_size_per_image = 2 * len(anchors)
    targets = [{"boxes": torch.tensor(own, dtype=torch.float64)} for own in OBJECTS]
    images = prepare(whole.images, whole.sizes, rpn.backbone.input_format).double()
    _, expected = peer.rpn.train()(ImageList(images, [(192, 192)] * 2), peer.backbone(images), targets)
    found = rpn(whole)
    # torchvision's mean is over the anchors of the batch; ours is each image's own.
    with torch.no_grad():
        kind, _ = rpn.assign(anchors, whole.boxes, whole.labels, whole.crowds, whole.sizes)
    share = (kind >= 0).sum(dim=1) / (kind >= 0).sum()
    for theirs, ours in (("loss_objectness", "objectness"), ("loss_rpn_box_reg", "box")):
        torch.testing.assert_close(
            (found[ours] * share).sum().double(), expected[theirs].double(), rtol=1e-5, atol=1e-6
        )
    own, other = peer.backbone.fpn.layer_blocks, rpn.backbone.smooth  # type: ignore[attr-defined]
    (sum(expected.values())).backward()  # type: ignore[union-attr]
    sum((found[name] * share).sum() for name in found).backward()  # type: ignore[union-attr]
    pairs = [(own[i][0].weight.grad, other[f"p{i + 2}"].weight.grad) for i in range(4)]
    body, trunk = peer.backbone.body, rpn.backbone.backbone  # type: ignore[attr-defined]
    pairs.append((body.layer2[0].conv1.weight.grad, trunk.layer2[0].conv1.weight.grad))
    for theirs, ours in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_losses_of_the_fast_rcnn_are_torchvisions(networks: tuple[RPN, FastRCNN, Peer]) -> None:
    _, fast_rcnn, peer = networks
    torch.manual_seed(1)
    corner = torch.rand(2, 40, 2) * torch.tensor([200.0, 150.0])
    proposals = torch.cat([corner, corner + 2 + torch.rand(2, 40, 2) * torch.tensor([54.0, 40.0])], dim=2)
    whole = batch(OBJECTS[:1] * 2, LABELS[:1] * 2, size=(192, 256), proposals=proposals)
    regions = fast_rcnn.sample_regions(whole)
    assert int(regions.valid.sum()) == 2 * (40 + 3)  # all of them: no draw decides
    targets = [{"boxes": torch.tensor(OBJECTS[0]), "labels": torch.tensor(LABELS[0])}] * 2
    images, maps = shown(networks, whole)
    peer.roi_heads.fg_bg_sampler.positive_fraction = 1.0
    try:
        peer.roi_heads.train()
        _, expected = peer.roi_heads(maps, list(proposals), images.image_sizes, targets)
    finally:
        peer.roi_heads.fg_bg_sampler.positive_fraction = 0.25
        peer.eval()
    with torch.no_grad():
        found = fast_rcnn(whole)
    for theirs, ours in (("loss_classifier", "class"), ("loss_box_reg", "box")):
        torch.testing.assert_close(found[ours].mean(), expected[theirs].detach(), rtol=1e-4, atol=1e-6)


def test_detections_are_torchvisions(networks: tuple[RPN, FastRCNN, Peer]) -> None:
    rpn, fast_rcnn, peer = networks
    whole = batch([[], []], [[], []], size=(192, 256))
    proposals = rpn.propose(whole.images, whole.sizes, before_nms=200, after_nms=100)
    images, maps = shown(networks, whole)
    with torch.no_grad():
        expected, _ = peer.roi_heads(maps, [b[:c] for b, c in zip(*proposals[::2], strict=True)], images.image_sizes)
    found = fast_rcnn.detect(whole.images, whole.sizes, proposals.boxes, proposals.counts, min_score=0.2, nms_iou=0.5)
    for own, other in zip(found, expected, strict=True):
        assert len(own.boxes) == len(other["boxes"]) > 0
        torch.testing.assert_close(own.boxes, other["boxes"], atol=1e-2, rtol=0)
        torch.testing.assert_close(own.scores, other["scores"], atol=1e-4, rtol=0)
        assert torch.equal(own.labels, other["labels"])


@pytest.mark.parametrize("head", ["two_layers", "four_convolutions"])
def test_fast_and_plain_kernels_agree_where_regions_lie_between_levels(config: Config, head: str) -> None:
    """Regions of exactly the side at which the level changes, and a little to either side; some levels get none."""
    torch.manual_seed(0)
    sides = torch.tensor([1.0, 55.9, 56.0, 56.1, 111.9, 112.0, 112.1, 224.0, 448.0, 500.0])
    regions = torch.cat([torch.zeros(len(sides), 2), sides[:, None].expand(-1, 2)], dim=1)[None]
    network = build_fast_rcnn(load_config(CONFIG, [f"fast_rcnn.box_head={head}"]), CLASSES, pretrained=False)
    spread(network)
    whole = batch([[]], [[]], size=(256, 256))
    answers = []
    for kernels in (PLAIN, CPU):
        use_kernels(network, kernels)
        for some in (regions, regions[:, :2]):
            with torch.no_grad():
                answers.append(network.predict(whole.images, whole.sizes, some)[0])
    torch.testing.assert_close(answers[0], answers[2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers[1], answers[3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["two_layers", "four_convolutions"])
def test_an_image_of_thousands_of_objects_and_one_without_teach_both_networks(head: str) -> None:
    random = torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=random) * 150
    objects = torch.cat([corner, corner + 2 + 8 * torch.rand(3000, 2, generator=random)], dim=1)
    changes = ["backbone.depths=[1,1,1,1]", "backbone.freeze=null", "backbone.pyramid_width=16", "rpn.channels=16"]
    changes += [f"fast_rcnn.box_head={head}", "fast_rcnn.box_head_channels=16", "fast_rcnn.box_head_width=32"]
    config = load_config(CONFIG, changes)
    whole = batch([objects.tolist(), []], [[1] * 3000, []], size=(160, 160), proposals=objects[None].repeat(2, 1, 1))
    for network in (build_rpn(config, pretrained=False), build_fast_rcnn(config, CLASSES, pretrained=False)):
        losses = network(whole)
        sum(loss.sum() for loss in losses.values()).backward()
        assert all(torch.isfinite(loss).all() for loss in losses.values())
        assert all(parameter.grad is None or torch.isfinite(parameter.grad).all() for parameter in network.parameters())
        assert losses["box"][0] > 0
        assert losses["box"][1] == 0


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(UserError, match="no weight of torchvision's Faster R-CNN"):
        from_torchvision({"roi_heads.mask_head.0.weight": torch.zeros(4)})
    with pytest.raises(UserError, match="no weight of torchvision's feature pyramid"):
        from_torchvision({"backbone.fpn.extra_blocks.p6.weight": torch.zeros(4)})


def test_an_eps_of_zero_goes_into_the_variance() -> None:
    rpn, _ = from_torchvision({"backbone.body.bn1.running_var": torch.ones(2, dtype=torch.float64)}, bn_eps=0.0)
    assert torch.allclose(rpn["backbone.backbone.bn1.running_var"] + 1e-5, torch.ones(2, dtype=torch.float64))
