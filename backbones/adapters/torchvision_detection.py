"""Backbones for torchvision's detectors: images → an ordered dict of maps, with the channels declared.

    fpn_backbone   images (N, 3, H, W) → {"0": (N, 256, H/4, W/4), "1": (N, 256, H/8, W/8), …, "pool": …}
    map_backbone   images (N, 3, H, W) → {"0": (N, C4, H/16, W/16)}
    c4_backbone    the same, and conv5 as the box head: regions (R, C4, 14, 14) → (R, C5)

Parameters have the names of torchvision's own detectors ("backbone.body.layer1.0.conv1.weight"), so a checkpoint of a
torchvision ResNet detector loads into one built here. The examples below use a small network for speed; use
"resnext101_32x4d" and weights="default" instead. The detector's image_mean and image_std need no change for any
weights: the backbone converts its input into the format of the weights.

Faster R-CNN with FPN. MaskRCNN and KeypointRCNN are built the same way.

    >>> import torch
    >>> from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
    >>> from torchvision.models.detection.anchor_utils import AnchorGenerator
    >>> from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
    >>> from torchvision.ops import MultiScaleRoIAlign
    >>> from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    >>> from backbones.adapters.torchvision_detection import c4_backbone, fpn_backbone, map_backbone
    >>> small = {"depths": (1, 1, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
    >>> sizes = {"min_size": 64, "max_size": 96}
    >>> backbone = fpn_backbone("resnext50_32x4d", out_channels=32, freeze="c2", **small)
    >>> backbone.out_channels
    32
    >>> detector = FasterRCNN(backbone, num_classes=3, **sizes).eval()
    >>> sorted(detector([torch.rand(3, 64, 80)])[0])
    ['boxes', 'labels', 'scores']

RetinaNet and FCOS, which begin at c3 and add two coarser levels.

    >>> backbone = fpn_backbone(
    ...     "resnext50_32x4d", outputs=("c3", "c4", "c5"), out_channels=32, extra_blocks=LastLevelP6P7(32, 32), **small
    ... )
    >>> detector = RetinaNet(backbone, num_classes=3, **sizes)
    >>> detector = FCOS(backbone, num_classes=3, **sizes)

Faster R-CNN on C4, as in the ResNet paper: anchors on the one map, and conv5 on every region.

    >>> backbone, conv5 = c4_backbone("resnext50_32x4d", freeze="c2", **small)
    >>> detector = FasterRCNN(
    ...     backbone,
    ...     rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
    ...     box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=2),
    ...     box_head=conv5,
    ...     box_predictor=FastRCNNPredictor(conv5.out_channels, num_classes=3),
    ...     **sizes,
    ... )

RetinaNet on one map, here c5 at stride 16.

    >>> backbone = map_backbone("resnext50_32x4d", output="c5", output_stride=16, **small)
    >>> detector = RetinaNet(
    ...     backbone,
    ...     num_classes=3,
    ...     anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
    ...     **sizes,
    ... )
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

try:
    from torchvision.models._utils import IntermediateLayerGetter
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import ExtraFPNBlock
except ImportError as error:
    raise ImportError(f"{__name__} needs torchvision ({error}): pip install torchvision") from error

from ..factory import create_backbone, create_c4
from ..input_format import InputFormat
from ..resnext import ResNeXtBackbone, Stage
from .host_input import default_host_format, mean_and_std
from .layers import layer_name, layers_in_order


class FPNBackbone(BackboneWithFPN):
    """A backbone with a feature pyramid: maps "0", "1", … from fine to coarse, followed by those of the extra blocks.

    Attributes:
        out_channels: channels of every map.
        image_mean, image_std: the values that the detector's transform must use, for RGB of 0–1. For images of three
            channels they are its defaults, unless `host_format` was given.
        provenance: of the backbone, see `backbones.ResNeXtBackbone`.
    """

    image_mean: list[float]
    image_std: list[float]
    provenance: dict[str, Any]


class MapBackbone(IntermediateLayerGetter):
    """A backbone that returns one map, "0". Attributes as in `FPNBackbone`."""

    out_channels: int
    image_mean: list[float]
    image_std: list[float]
    provenance: dict[str, Any]


class Conv5Head(nn.Module):
    """The last stage as a box head: regions (R, C4, h, w) → (R, out_channels), the mean over conv5's map."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.out_channels = stage.out_channels

    def forward(self, regions: Tensor) -> Tensor:
        return self.stage(regions).mean((2, 3))


def fpn_backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    outputs: Sequence[str] = ("c2", "c3", "c4", "c5"),
    *,
    out_channels: int = 256,
    extra_blocks: ExtraFPNBlock | None = None,
    host_format: InputFormat | None = None,
    **options: Any,
) -> FPNBackbone:
    """Builds a backbone with FPN (Lin et al., CVPR 2017) for any of torchvision's detectors.

    Args:
        name, weights, outputs: as in `backbones.create_backbone`.
        out_channels: of the pyramid.
        extra_blocks: coarser levels on top; None is a max-pool, as FasterRCNN's default anchors expect; use
            LastLevelP6P7 for RetinaNet and FCOS.
        host_format: the output format of the detector's transform, if its image_mean and image_std are not the
            defaults; None otherwise.
        options: norm, freeze and structure, as in `backbones.create_backbone`.

    Raises:
        UserError: as in `backbones.create_backbone`.
    """
    backbone = create_backbone(name, weights, outputs, **options)
    returned = {layer_name(level): str(index) for index, level in enumerate(backbone.outputs)}
    with_fpn = FPNBackbone(
        layers_in_order(backbone, host_format), returned, list(backbone.channels.values()), out_channels, extra_blocks
    )
    _describe(with_fpn, backbone, host_format)
    return with_fpn


def map_backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    output: str = "c4",
    *,
    host_format: InputFormat | None = None,
    **options: Any,
) -> MapBackbone:
    """Builds a backbone that returns one map: c4 for C4 detectors, or c5 with output_stride=16 for a dilated one (DC5).

    Arguments as in `fpn_backbone`.
    """
    return _one_map(create_backbone(name, weights, (output,), **options), host_format)


def c4_backbone(
    name: str, weights: str | os.PathLike[str] | None = None, *, host_format: InputFormat | None = None, **options: Any
) -> tuple[MapBackbone, Conv5Head]:
    """Builds the parts of a C4 detector (He et al., CVPR 2016, appendix A): conv1–conv4 for images, conv5 for regions.

    Arguments as in `fpn_backbone`; freeze="c5" freezes both parts.
    """
    trunk, stage = create_c4(name, weights, **options)
    return _one_map(trunk, host_format), Conv5Head(stage)


def _one_map(backbone: ResNeXtBackbone, host_format: InputFormat | None) -> MapBackbone:
    (level,) = backbone.outputs
    getter = MapBackbone(layers_in_order(backbone, host_format), {layer_name(level): "0"})
    getter.out_channels = backbone.channels[level]
    _describe(getter, backbone, host_format)
    return getter


def _describe(adapted: FPNBackbone | MapBackbone, backbone: ResNeXtBackbone, host_format: InputFormat | None) -> None:
    host = host_format or default_host_format(backbone.input_format)
    adapted.image_mean, adapted.image_std = mean_and_std(host)
    adapted.provenance = backbone.provenance
