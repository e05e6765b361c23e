"""Configuration → networks. The only place where the two meet: the networks' constructors take built objects and plain
numbers."""

from __future__ import annotations

from typing import Any

from backbones import create_backbone, create_c4
from backbones.common.errors import UserError
from backbones.variants import find_variant
from detection import config as settings
from detection.geometry.anchors import Anchors
from detection.geometry.coding import BoxCoder
from detection.geometry.roi_pooling import RegionPooler
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN


def build_rpn(config: settings.Config, *, pretrained: bool = True) -> RPN:
    """The proposal network on C4. Without `pretrained` its backbone starts from random weights, to be loaded over."""
    rpn = config.rpn
    backbone = create_backbone(
        config.backbone.name,
        config.backbone.weights if pretrained else None,
        ("c4",),
        **_backbone_arguments(config.backbone),
    )
    strides = list(backbone.strides.values())
    network = RPN(
        backbone,
        Anchors([rpn.anchor_sizes], rpn.anchor_ratios, strides),
        channels=rpn.channels,
        positive_iou=rpn.positive_iou,
        negative_iou=rpn.negative_iou,
        samples=rpn.samples,
        positive_share=rpn.positive_share,
        allowed_border=rpn.allowed_border,
        smooth_l1_beta=rpn.smooth_l1_beta,
        crowd_overlap=rpn.crowd_overlap,
    )
    if config.runtime.compile:
        network.backbone.compile()
    return network


def build_fast_rcnn(config: settings.Config, classes: int, *, pretrained: bool = True) -> FastRCNN:
    """The region classifier for `classes` classes, the background not counted."""
    fast = config.fast_rcnn
    trunk, conv5 = create_c4(
        config.backbone.name,
        config.backbone.weights if pretrained else None,
        **_backbone_arguments(config.backbone),
    )
    network = FastRCNN(
        trunk,
        RegionPooler(fast.pooling, fast.pooled_size, list(trunk.strides.values()), fast.sampling_ratio),
        conv5,
        classes=classes,
        coder=BoxCoder(fast.box_stds, fast.box_means),
        positive_iou=fast.positive_iou,
        background_low=fast.background_low,
        samples=fast.samples,
        positive_share=fast.positive_share,
        smooth_l1_beta=fast.smooth_l1_beta,
        crowd_overlap=fast.crowd_overlap,
    )
    if config.runtime.compile:
        network.trunk.compile()
        network.conv5.compile()
    return network


def pair(config: settings.Config, rpn: RPN, fast_rcnn: FastRCNN) -> FasterRCNN:
    """Two networks that were trained apart as one detector."""
    limits, fast = config.rpn.test_proposals, config.fast_rcnn
    return FasterRCNN(
        rpn,
        fast_rcnn,
        before_nms=limits.before_nms,
        proposals=limits.after_nms,
        proposal_nms_iou=limits.nms_iou,
        min_side=limits.min_side,
        min_score=fast.min_score,
        nms_iou=fast.nms_iou,
        detections=fast.detections,
    )


def _backbone_arguments(backbone: settings.Backbone) -> dict[str, Any]:
    structure = {
        name: getattr(backbone, name)
        for name in ("depths", "cardinality", "base_width", "planes", "stem_width")
        if getattr(backbone, name) is not None
    }
    if (levels := find_variant(backbone.name, structure).levels) != ("c2", "c3", "c4", "c5"):
        raise UserError(
            f"backbone.name={backbone.name} has the stages {', '.join(levels)}; both networks need c2 to c5: the RPN "
            "works on c4, the Fast R-CNN runs c5 on each region. A network that has them and learns CIFAR: "
            "configs/cifar/detector_backbone.yaml"
        )
    return {"norm": backbone.norm, "freeze": backbone.freeze, **structure}
