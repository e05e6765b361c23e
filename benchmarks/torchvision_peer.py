"""Our configuration → torchvision's own Faster R-CNN: one trunk for both halves, its RPN, its RoI heads, its operators.

    build_peer(config, trunk, head, …)    the detector, on any trunk and box head
    torchvision_c4(variant)               torchvision's own ResNeXt, cut into trunk and box head
    torchvision_pyramid(variant, …)       torchvision's own ResNeXt with its own feature pyramid, and its box head
    as_lists(batch)                       our batch → the lists of images and targets that it takes
    PeerDetector(peer)                    the detector, called as ours is

Anchors, numbers of proposals and samples, and thresholds come from the configuration. What torchvision does not let
one choose stays as it is there: both smooth-L1 losses have a beta of 1/9, anchors across the border learn, crowd
regions are left out.

Shapes: N images, H × W padded size, G ground-truth boxes, D detections.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from backbones import InputFormat, Variant
from backbones.constants import constant
from detection import config as settings
from detection.data.batches import Batch
from detection.geometry.anchors import Anchors
from detection.networks.fast_rcnn import Detections, FastRCNN
from detection.networks.faster_rcnn import to_original
from detection.networks.rpn import RPN

C4 = {"c4": 16}  # the strides of its levels
PYRAMID = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "pool": 64}


def build_peer(
    config: settings.Config,
    trunk: nn.Module,
    box_head: nn.Module,
    *,
    strides: Mapping[str, int] = C4,
    widths: tuple[int, int],
    classes: int,
    input_format: InputFormat,
    same_conventions: bool = False,
) -> FasterRCNN:
    """torchvision's detector.

    Args:
        trunk: images (N, 3, H, W) → {"c4": (N, C, H/16, W/16)}, or the levels of a pyramid.
        box_head: pooled regions (R, C, P, P) → vectors (R, D).
        strides: of the trunk's levels, finest first. All are the RPN's; of several, the coarsest is not pooled from.
        widths: (C, D).
        classes: K, without the background.
        same_conventions: take our anchors (not rounded, centred on cells) and our pooling (RoIAlign on pixel centres,
            max-pooling of half-open boxes), by torchvision's operators, so that both find the same boxes.

    Raises:
        ValueError: settings that torchvision cannot be given.
    """
    rpn, fast = config.rpn, config.fast_rcnn
    if any(fast.box_means):
        raise ValueError("torchvision's box targets have no means; set fast_rcnn.box_means to zeros")
    if input_format.channel_order != "rgb" or input_format.value_range != 1.0:
        raise ValueError(f"torchvision's detector takes RGB images in 0–1, and these weights want {input_format}")
    each = len(rpn.anchor_sizes) // len(strides)
    sizes = [list(rpn.anchor_sizes[start : start + each]) for start in range(0, len(rpn.anchor_sizes), each)]
    pooled = dict(itertools.islice(strides.items(), max(1, len(strides) - 1)))
    if same_conventions:
        anchors: AnchorGenerator = _OurAnchors(Anchors(sizes, rpn.anchor_ratios, list(strides.values())))
        pooling: MultiScaleRoIAlign = _OurPooling(pooled, fast.pooling, fast.pooled_size, fast.sampling_ratio)
    else:
        anchors = AnchorGenerator(tuple(map(tuple, sizes)), (rpn.anchor_ratios,) * len(strides))
        pooling = MultiScaleRoIAlign(list(pooled), fast.pooled_size, fast.sampling_ratio)
    training, test = rpn.training_proposals, rpn.test_proposals
    peer = FasterRCNN(
        _Trunk(trunk, widths[0]),
        rpn_anchor_generator=anchors,
        rpn_head=_rpn_head(widths[0], rpn.channels, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=training.before_nms or sys.maxsize,
        rpn_pre_nms_top_n_test=test.before_nms or sys.maxsize,
        rpn_post_nms_top_n_train=training.after_nms,
        rpn_post_nms_top_n_test=test.after_nms,
        rpn_nms_thresh=test.nms_iou,
        rpn_fg_iou_thresh=rpn.positive_iou,
        rpn_bg_iou_thresh=rpn.negative_iou,
        rpn_batch_size_per_image=rpn.samples,
        rpn_positive_fraction=rpn.positive_share,
        box_roi_pool=pooling,
        box_head=box_head,
        box_predictor=FastRCNNPredictor(widths[1], classes + 1),
        box_score_thresh=fast.min_score,
        box_nms_thresh=fast.nms_iou,
        box_detections_per_img=fast.detections,
        box_fg_iou_thresh=fast.positive_iou,
        box_bg_iou_thresh=fast.positive_iou,
        box_batch_size_per_image=fast.samples,
        box_positive_fraction=fast.positive_share,
        bbox_reg_weights=tuple(1 / std for std in fast.box_stds),
    )
    peer.transform = _AlreadyResized(
        config.data.test_shorter_side,
        config.data.test_longer_side,
        list(input_format.mean),
        list(input_format.std),
        size_divisible=config.data.size_divisor,
    )
    # In pixels of the network's input; ours are in the original image's, so the two are equal for unresized images.
    peer.rpn.min_size = max(test.min_side, peer.rpn.min_size)
    return peer


def torchvision_c4(variant: Variant) -> tuple[nn.Module, nn.Module]:
    """torchvision's own ResNet or ResNeXt of our variant, frozen BN, cut into trunk and conv5 with our names; the box
    head is that conv5, `[0]`, and the mean."""
    body = _torchvision_body(variant)
    return IntermediateLayerGetter(body, {"layer3": "c4"}), c4_box_head(body.layer4)


def c4_box_head(conv5: nn.Module) -> nn.Module:
    """Pooled regions → conv5 → the mean over its map."""
    return nn.Sequential(conv5, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def torchvision_pyramid(variant: Variant, config: settings.Config) -> tuple[nn.Module, nn.Module]:
    """torchvision's own ResNet or ResNeXt of our variant, frozen BN, with its feature pyramid and its box head of two
    layers."""
    body = _torchvision_body(variant)
    width, levels = config.backbone.pyramid_width, list(PYRAMID)
    channels = [256 * 2**stage for stage in range(4)]
    trunk = BackboneWithFPN(body, {f"layer{i + 1}": levels[i] for i in range(4)}, channels, width)
    return trunk, TwoMLPHead(width * config.fast_rcnn.pooled_size**2, config.fast_rcnn.box_head_width)


def _torchvision_body(variant: Variant) -> Any:
    return torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck,
        list(variant.depths),
        groups=variant.cardinality,
        width_per_group=variant.base_width,
        norm_layer=FrozenBatchNorm2d,
    )


def copy_heads(rpn: RPN, fast_rcnn: FastRCNN, peer: FasterRCNN) -> None:
    """Gives the peer the weights of our heads; trunk and conv5 are the caller's."""
    classes = fast_rcnn.classes
    with torch.no_grad():
        peer.rpn.head.conv[0][0].load_state_dict(rpn.head.conv.state_dict())
        peer.rpn.head.cls_logits.load_state_dict(rpn.head.objectness.state_dict())
        peer.rpn.head.bbox_pred.load_state_dict(rpn.head.box.state_dict())
        peer.roi_heads.box_predictor.cls_score.load_state_dict(fast_rcnn.class_logits.state_dict())
        box = peer.roi_heads.box_predictor.bbox_pred  # has four outputs for the background, too
        box.weight[-4 * classes :] = fast_rcnn.box_targets.weight
        box.bias[-4 * classes :] = fast_rcnn.box_targets.bias


def as_lists(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch as torchvision takes it: float images (3, h, w) in 0–1 without padding, and their targets."""
    targets = []
    for boxes, labels, crowds in zip(batch.boxes, batch.labels, batch.crowds, strict=True):
        is_target = (labels > 0) & ~crowds
        targets.append({"boxes": boxes[is_target], "labels": labels[is_target]})
    return as_floats(batch.images, batch.sizes), targets


def as_floats(images: Tensor, sizes: Tensor) -> list[Tensor]:
    """uint8 images (N, 3, H, W) of sizes (N, 2) → float images (3, h, w) in 0–1."""
    return [
        image[:, :height, :width].float().div_(255)
        for image, (height, width) in zip(images, sizes.tolist(), strict=True)
    ]


class PeerDetector(nn.Module):
    """torchvision's detector, called and answering as `detection.networks.faster_rcnn.FasterRCNN` does."""

    def __init__(self, peer: FasterRCNN) -> None:
        super().__init__()
        self.peer = peer
        self.detections: int = peer.roi_heads.detections_per_img

    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        """Detections of each uint8 image (N, 3, H, W), in pixels of the original image."""
        found = self.peer(as_floats(images, sizes))
        return [
            Detections(
                to_original(one["boxes"][None], sizes[i : i + 1], original_sizes[i : i + 1])[0],
                one["scores"],
                one["labels"],
            )
            for i, one in enumerate(found)
        ]


class _Trunk(nn.Module):
    """A trunk that tells its width by the name that torchvision looks for."""

    def __init__(self, trunk: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: dict[str, Tensor] = self.trunk(images)
        return maps


class _AlreadyResized(GeneralizedRCNNTransform):
    """torchvision's normalisation and padding without its resize: the loader has done that."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        return image, target


class _OurAnchors(AnchorGenerator):
    """torchvision's anchors are rounded to whole pixels and centred on cells' corners; these are not."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__()
        self.anchors = anchors

    def num_anchors_per_location(self) -> list[int]:
        return [self.anchors.per_position] * len(self.anchors.strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        return [self.anchors(feature_maps)] * len(image_list.image_sizes)


class _OurPooling(MultiScaleRoIAlign):
    """torchvision's operators as our `RoIPooling` defines pooling: RoIAlign aligned, max-pooling without the +1. Which
    level a region is pooled from is torchvision's choice."""

    def __init__(self, strides: Mapping[str, int], method: str, output_size: int, sampling_ratio: int) -> None:
        super().__init__(list(strides), output_size, sampling_ratio)
        self.strides = strides
        self.method = method

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: Sequence[tuple[int, int]]) -> Tensor:
        maps = [x[name] for name in self.strides]
        if len(maps) == 1:
            return self._pool(maps[0], boxes, next(iter(self.strides.values())))
        low, high = (round(math.log2(stride)) for stride in (min(self.strides.values()), max(self.strides.values())))
        levels = initLevelMapper(low, high)(boxes)
        counts = [len(own) for own in boxes]
        pooled = maps[0].new_empty(len(levels), maps[0].shape[1], *self.output_size)
        for level, (features, stride) in enumerate(zip(maps, self.strides.values(), strict=True)):
            own = levels == level
            some = [one[here] for one, here in zip(boxes, own.split(counts), strict=True)]
            pooled[own] = self._pool(features, some, stride)
        return pooled

    def _pool(self, features: Tensor, boxes: list[Tensor], stride: int) -> Tensor:
        if self.method == "align":
            return torchvision.ops.roi_align(
                features, boxes, self.output_size, 1 / stride, self.sampling_ratio, aligned=True
            )
        precise = torch.promote_types(features.dtype, torch.float32)  # as the operator does by itself on a GPU
        inclusive = [own.to(precise) - constant((0.0, 0.0, 1.0, 1.0), own.device, precise) for own in boxes]
        pooled = torchvision.ops.roi_pool(features.to(precise), inclusive, self.output_size, 1 / stride)
        return pooled.to(features.dtype)


def _rpn_head(width: int, channels: int, anchors: int) -> RPNHead:
    """torchvision's head, which is as wide as its map, at another width."""
    head = RPNHead(channels, anchors)
    if channels != width:
        first = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.normal_(first.weight, std=0.01)
        nn.init.zeros_(first.bias)  # type: ignore[arg-type]
        head.conv[0][0] = first
    return head
