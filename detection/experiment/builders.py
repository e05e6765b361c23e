"""Configuration → networks. Only this module knows both: the networks' constructors take objects and plain numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from backbones import FeaturePyramid, ResNeXtBackbone, create_backbone, create_c4
from backbones.common.errors import UserError
from backbones.variants import find_variant
from detection import config as settings
from detection.geometry.anchors import Anchors
from detection.geometry.coding import BoxCoder
from detection.geometry.roi_pooling import RoIPooling
from detection.networks.box_heads import C4BoxHead, ConvolutionBoxHead, TwoLayerBoxHead
from detection.networks.cascade import CascadeRCNN
from detection.networks.detections import Suppression
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.region_loss import class_balanced_weights
from detection.networks.rpn import RPN


def build_rpn(config: settings.Config, *, pretrained: bool = True) -> RPN:
    """The proposal network. Without `pretrained` its backbone has random weights, to be overwritten."""
    rpn = config.rpn
    backbone = _build_trunk(config, settings.PYRAMID_COARSEST, pretrained=pretrained)
    network = RPN(
        backbone,
        build_anchors(rpn, list(backbone.strides.values())),
        channels=rpn.channels,
        positive_iou=rpn.positive_iou,
        negative_iou=rpn.negative_iou,
        samples=rpn.samples,
        positive_share=rpn.positive_share,
        allowed_border=rpn.allowed_border,
        smooth_l1_beta=rpn.smooth_l1_beta,
        box_loss=rpn.box_loss,
        box_loss_weight=rpn.box_loss_weight,
        crowd_overlap=rpn.crowd_overlap,
    )
    _compile_if_asked(config, backbone)
    return network


def build_anchors(rpn: settings.RPN, strides: Sequence[int]) -> Anchors:
    """The RPN's anchors on feature maps of these strides, finest first."""
    sizes = [own.tolist() for own in np.array_split(rpn.anchor_sizes, len(strides))]
    return Anchors(sizes, rpn.anchor_ratios, strides, offset=rpn.anchor_offset, rounded=rpn.anchor_rounding)


def build_fast_rcnn(
    config: settings.Config, classes: int, *, pretrained: bool = True, class_counts: Sequence[int] | None = None
) -> FastRCNN:
    """The region classifier for `classes` classes, the background not counted.

    class_counts: the objects of each class in the training set, for `fast_rcnn.class_balance`; None for inference.
    """
    fast = config.fast_rcnn
    conv5: nn.Module | None = None
    trunk: ResNeXtBackbone | FeaturePyramid
    if fast.box_head == "conv5":
        source = config.backbone.weights if pretrained else None
        trunk, conv5 = create_c4(config.backbone.name, source, **_backbone_arguments(config.backbone))
    else:
        trunk = _build_trunk(config, settings.PYRAMID_COARSEST - 1, pretrained=pretrained)
    pooling = RoIPooling(fast.pooling, fast.pooled_size, tuple(trunk.strides.values()), fast.sampling_ratio)
    width = next(iter(trunk.channels.values()))
    heads = [_build_box_head(fast, pooling, width, conv5)]
    for _ in fast.cascade:  # conv5 with the same initial weights
        heads.append(_build_box_head(fast, pooling, width, copy.deepcopy(conv5)))
    weights = None
    if fast.class_balance is not None and class_counts is not None:
        weights = class_balanced_weights(class_counts, fast.class_balance)
    common: dict[str, Any] = dict(
        classes=classes,
        coder=BoxCoder(fast.box_stds, fast.box_means),
        positive_iou=fast.positive_iou,
        background_low=fast.background_low,
        samples=fast.samples,
        positive_share=fast.positive_share,
        sampling=fast.sampling,
        smooth_l1_beta=fast.smooth_l1_beta,
        box_loss=fast.box_loss,
        box_loss_weight=fast.box_loss_weight,
        class_weights=weights,
        crowd_overlap=fast.crowd_overlap,
    )
    if fast.cascade:
        network: FastRCNN = CascadeRCNN(trunk, heads, positive_ious=fast.cascade, **common)
    else:
        network = FastRCNN(trunk, heads[0], **common)
    _compile_if_asked(config, trunk, *(head.conv5 for head in heads if isinstance(head, C4BoxHead)))
    return network


def pair(config: settings.Config, rpn: RPN, fast_rcnn: FastRCNN) -> FasterRCNN:
    """Two networks that were trained separately → one detector."""
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
        suppression=Suppression(
            fast.nms, fast.soft_nms_sigma, fast.soft_nms_min_score, fast.nms_across_classes, fast.box_voting_iou
        ),
    )


def _build_trunk(config: settings.Config, coarsest: int, *, pretrained: bool) -> ResNeXtBackbone | FeaturePyramid:
    """The backbone up to C4, or with a feature pyramid up to this level."""
    backbone = config.backbone
    finest = backbone.pyramid_finest
    outputs = ("c4",) if backbone.features == "c4" else tuple(f"c{level}" for level in range(finest, 6))
    weights = backbone.weights if pretrained else None
    network = create_backbone(backbone.name, weights, outputs, **_backbone_arguments(backbone))
    if backbone.features == "c4":
        return network
    levels = [f"p{level}" for level in range(finest, coarsest + 1)]
    return FeaturePyramid(network, backbone.pyramid_width, norm=backbone.pyramid_norm, outputs=levels)


def _build_box_head(
    fast: settings.FastRCNN, pooling: RoIPooling, in_channels: int, conv5: nn.Module | None
) -> C4BoxHead | TwoLayerBoxHead | ConvolutionBoxHead:
    if conv5 is not None:
        return C4BoxHead(pooling, conv5)
    if fast.box_head == "two_layers":
        return TwoLayerBoxHead(pooling, in_channels, fast.box_head_width)
    return ConvolutionBoxHead(pooling, in_channels, fast.box_head_channels, width=fast.box_head_width)


def _compile_if_asked(config: settings.Config, *parts: nn.Module | None) -> None:
    for part in parts:
        if config.runtime.compile and part is not None:
            part.compile()


def _backbone_arguments(backbone: settings.Backbone) -> dict[str, Any]:
    structure = {
        name: getattr(backbone, name)
        for name in ("depths", "cardinality", "base_width", "planes", "stem_width")
        if getattr(backbone, name) is not None
    }
    if (levels := find_variant(backbone.name, structure).levels) != ("c2", "c3", "c4", "c5"):
        raise UserError(
            f"backbone.name={backbone.name} has the stages {', '.join(levels)}; both networks need c2 to c5. "
            "A network that has them and learns CIFAR: "
            "configs/cifar/detector_backbone.yaml"
        )
    return {"norm": backbone.norm, "freeze": backbone.freeze, **structure}
