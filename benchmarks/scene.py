"""One image, our two networks and torchvision's detector with the same weights: what the speed benchmarks look at.

The weights are random, and BN is calibrated on the image, so that activations keep their size through the network
and scores are spread as a trained network's are: nothing is NaN, nothing is tied, and suppression has work to do.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN

from backbones.variants import find_variant
from benchmarks.torchvision_peer import C4, PYRAMID, build_peer, copy_heads, torchvision_c4, torchvision_pyramid
from detection import config as settings
from detection.data.batches import Batch, Sample, collate
from detection.experiment.builders import build_fast_rcnn, build_rpn, pair
from detection.networks.box_heads import C4BoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN
from detection.training.placement import for_inference, placed

CLASSES = 80
_OBJECTS = 8


@dataclass(frozen=True)
class Scene:
    """Everything lies on one device and is in evaluation mode.

    batch: one image with objects and 2,000 proposals, of our RPN; rpn, fast_rcnn: ours, each with its own trunk;
    detector: the two as a pair, as `Detector` makes it (`for_inference`); shared: the same with one trunk for both;
    peer: torchvision's, its trunk of the same weights.
    """

    config: settings.Config
    batch: Batch
    rpn: RPN
    fast_rcnn: FastRCNN
    detector: FasterRCNN
    shared: FasterRCNN
    peer: TorchvisionFasterRCNN


def make_scene(config: settings.Config, size: tuple[int, int], device: torch.device) -> Scene:
    """Builds it for an image of `size` (height, width). The configuration's pretrained weights are not used."""
    torch.manual_seed(0)
    batch = _batch(size, config.data.size_divisor)
    state = _calibrated(config, batch)
    fast_rcnn = build_fast_rcnn(config, CLASSES, pretrained=False)
    fast_rcnn.load_state_dict(state)
    nn.init.normal_(fast_rcnn.class_logits.weight, std=0.02)  # a few classes of most regions score above 0.05
    if not isinstance(fast_rcnn.box_head, C4BoxHead):  # whose vectors have no such fixed scale
        with torch.no_grad():
            logits, _ = fast_rcnn.eval().predict(batch.images, batch.sizes, batch.boxes)
            fast_rcnn.class_logits.weight.mul_(2 / logits.std())
    rpn = build_rpn(config, pretrained=False)
    nn.init.normal_(rpn.head.box.weight, std=0.003)  # boxes move by a tenth of their size, not by half
    rpn.backbone.load_state_dict(fast_rcnn.trunk.state_dict())
    peer = _peer(config, rpn, fast_rcnn)

    batch = batch.to(device)
    rpn, fast_rcnn = placed(rpn, config.runtime, device).eval(), placed(fast_rcnn, config.runtime, device).eval()
    detector = for_inference(pair(config, rpn, fast_rcnn), config.runtime, device)
    shared = copy.deepcopy(detector)
    _share_trunk(shared)
    limits = config.rpn.training_proposals
    proposals = rpn.propose(batch.images, batch.sizes, before_nms=limits.before_nms, after_nms=limits.after_nms)
    batch = dataclasses.replace(batch, proposals=proposals.boxes, proposal_counts=proposals.counts)
    return Scene(config, batch, rpn, fast_rcnn, detector, shared, peer.to(device).eval())


def _share_trunk(detector: FasterRCNN) -> None:
    """Lets both networks look at the RPN's maps, all of which it computes once for an image."""
    trunk = _SharedTrunk(detector.rpn.backbone)  # type: ignore[arg-type]
    wanted = list(detector.fast_rcnn.trunk.channels)
    detector.rpn.backbone = trunk  # type: ignore[assignment]
    detector.fast_rcnn.trunk = _SomeMaps(trunk, wanted)  # type: ignore[assignment]


class _SharedTrunk(nn.Module):
    """A trunk of two networks: the second one to ask for an image's maps is given those of the first."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.input_format = trunk.input_format
        self._maps: dict[str, Tensor] | None = None

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps, self._maps = self._maps, None
        if maps is None:
            maps = self._maps = self.trunk(images)
        return maps


class _SomeMaps(nn.Module):
    """Those of a trunk's maps that a network was trained on."""

    def __init__(self, trunk: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.trunk = trunk
        self.input_format = trunk.input_format
        self.names = names

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.trunk(images)
        return {name: maps[name] for name in self.names}


def _batch(size: tuple[int, int], size_divisor: int) -> Batch:
    """An image of blotches and grain, with objects."""
    height, width = size
    blotches = functional.interpolate(torch.rand(1, 3, height // 32 + 2, width // 32 + 2), size, mode="bicubic")[0]
    image = (blotches * 220 + torch.rand(3, *size) * 35).clamp(0, 255).to(torch.uint8)
    corner = torch.rand(_OBJECTS, 2) * 0.7
    far = corner + 0.05 + torch.rand(_OBJECTS, 2) * (0.95 - corner)
    sample = Sample(
        image=image,
        image_id=1,
        index=0,
        original_size=size,
        boxes=torch.cat([corner, far.clamp(max=1)], dim=1) * torch.tensor([width, height, width, height]),
        labels=torch.randint(1, CLASSES + 1, (_OBJECTS,)),
        crowds=torch.zeros(_OBJECTS, dtype=torch.bool),
        proposals=None,
        seed=1,
    )
    return collate([sample], size_divisor)


def _calibrated(config: settings.Config, batch: Batch) -> dict[str, Tensor]:
    """Weights of a Fast R-CNN whose BN statistics are those of the image and its objects."""
    backbone = dataclasses.replace(config.backbone, norm="batch", freeze=None)
    network = build_fast_rcnn(dataclasses.replace(config, backbone=backbone), CLASSES, pretrained=False).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.predict(batch.images, batch.sizes, batch.boxes)
    return network.state_dict()


def _peer(config: settings.Config, rpn: RPN, fast_rcnn: FastRCNN) -> TorchvisionFasterRCNN:
    names = ("depths", "cardinality", "base_width")
    backbone = config.backbone
    structure = {name: getattr(backbone, name) for name in names if getattr(backbone, name) is not None}
    variant = find_variant(backbone.name, structure)
    box_head, trunk = fast_rcnn.box_head, fast_rcnn.trunk
    if isinstance(box_head, C4BoxHead):
        theirs, their_head = torchvision_c4(variant)
        pairs = [(theirs, trunk), (their_head[0], box_head.conv5)]
    else:
        theirs, their_head = torchvision_pyramid(variant, config)
        pairs = [(theirs.body, trunk.backbone), (their_head, box_head)]  # type: ignore[attr-defined]
        for i, level in enumerate(trunk.channels):
            pairs.append((theirs.fpn.inner_blocks[i][0], trunk.lateral[level]))  # type: ignore[attr-defined]
            pairs.append((theirs.fpn.layer_blocks[i][0], trunk.smooth[level]))  # type: ignore[attr-defined]
    for their_part, our_part in pairs:
        their_part.load_state_dict(our_part.state_dict())
        for name, parameter in their_part.named_parameters():
            parameter.requires_grad_(our_part.get_parameter(name).requires_grad)
    peer = build_peer(
        config,
        theirs,
        their_head,
        strides=C4 if isinstance(box_head, C4BoxHead) else PYRAMID,
        widths=(next(iter(trunk.channels.values())), box_head.out_channels),
        classes=CLASSES,
        input_format=trunk.input_format,
        same_conventions=True,
    )
    copy_heads(rpn, fast_rcnn, peer)
    return peer
