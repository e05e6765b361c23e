"""The region proposal network: images → boxes that may contain an object of any class.

It has its own backbone and shares nothing with the region classifier (the paper's appendix B).
Shapes: N images, C channels, H × W map, A anchors of the whole image (all levels), a anchors a position, G ground-truth
boxes, S sampled anchors, R proposals.
Source: Faster R-CNN section 3.1; py-faster-rcnn `anchor_target_layer.py` and `proposal_layer.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones import Backbone
from detection.geometry import boxes as box_ops
from detection.geometry.anchors import Anchors
from detection.geometry.coding import BoxCoder
from detection.geometry.matching import IGNORED, POSITIVE, inside_any, match
from detection.geometry.sampling import sample
from detection.geometry.tensors import take
from detection.kernels.choice import PLAIN
from detection.networks.box_loss import BoxLoss, BoxLossKind
from detection.networks.network_input import prepare
from detection.networks.rpn_head import RPNHead


class RPNBatch(Protocol):
    """The part of a batch that the losses use; `detection.data.batches.Batch` has it."""

    images: Tensor  # (N, 3, H, W) uint8 RGB, padded at the right and the bottom
    sizes: Tensor  # (N, 2) int64: height and width of the image within the padding
    boxes: Tensor  # (N, G, 4) ground truth, in pixels of `images`
    labels: Tensor  # (N, G) int64: 0 is padding
    crowds: Tensor  # (N, G) bool: crowd regions, which are not targets
    seeds: Tensor  # (N,) int64: seeds of the sampling in each image


class Proposals(NamedTuple):
    """`boxes` (N, R, 4) in pixels of the network's input, `scores` (N, R) in 0–1 descending, and `counts` (N,), the
    number of proposals among the R; the rest is padding."""

    boxes: Tensor
    scores: Tensor
    counts: Tensor


class RPNPrediction(NamedTuple):
    """`logits` (N, A) of objectness, box `targets` (N, A, 4), `anchors` (A, 4), and the `maps` that they were predicted
    from, finest first."""

    logits: Tensor
    targets: Tensor
    anchors: Tensor
    maps: list[Tensor]


class RPN(nn.Module):
    """Backbone + head + anchors. `forward` returns the losses of a batch, `propose` the proposals in images; neither
    computes what only the other uses.

    Args:
        backbone: images → a dict of feature maps, finest first; all of them are used.
        channels: width of the head's 3×3 convolution.
        anchors: sizes and strides in the order of the backbone's levels.
        positive_iou, negative_iou: an anchor is an object at or above the first IoU with a ground truth and background
            below the second; the best anchor of each ground truth is an object too.
        samples: anchors an image that the losses are taken over.
        positive_share: at most this share of them are objects.
        allowed_border: anchors that extend beyond the image by more than this many pixels are ignored in training; None
            uses all.
        smooth_l1_beta: where the box loss turns from quadratic to linear (1 / σ²).
        box_loss, box_loss_weight: see `BoxLoss`.
        crowd_overlap: background anchors with at least this share of their area inside a crowd region are ignored; None
            keeps them, as the reference code does.

    Attributes:
        kernels: the forms of functions that have several; see `detection.kernels.choice`.
    """

    def __init__(
        self,
        backbone: Backbone,
        anchors: Anchors,
        *,
        channels: int = 512,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        samples: int = 256,
        positive_share: float = 0.5,
        allowed_border: float | None = 0.0,
        smooth_l1_beta: float = 1 / 9,
        box_loss: BoxLossKind = "smooth_l1",
        box_loss_weight: float = 1.0,
        crowd_overlap: float | None = None,
    ) -> None:
        super().__init__()
        widths = set(backbone.channels.values())
        if len(widths) != 1:
            raise ValueError(
                f"the RPN's head needs levels of equal width, the backbone gives {dict(backbone.channels)}"
            )
        if list(backbone.strides.values()) != anchors.strides:
            raise ValueError(f"anchors of strides {anchors.strides} for a backbone of strides {dict(backbone.strides)}")
        self.backbone = backbone
        self.head = RPNHead(widths.pop(), channels, anchors.per_position)
        self.anchors = anchors
        self.coder = BoxCoder()
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.samples = samples
        self.positive_share = positive_share
        self.allowed_border = allowed_border
        self.box_loss = BoxLoss(box_loss, beta=smooth_l1_beta, weight=box_loss_weight)
        self.crowd_overlap = crowd_overlap
        self.kernels = PLAIN

    def feature_maps(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """The backbone's maps, finest first, of uint8 images (N, 3, H, W) whose sizes (N, 2) are (height, width)
        within the padding."""
        return list(self.backbone(prepare(images, sizes, self.backbone.input_format)).values())

    def predict(self, images: Tensor, sizes: Tensor) -> RPNPrediction:
        """The objectness logit and box targets of each anchor. Arguments as for `feature_maps`."""
        maps = self.feature_maps(images, sizes)
        logits, targets = self.head(maps)
        return RPNPrediction(logits.float(), targets.float(), self.anchors(maps), maps)

    def forward(self, batch: RPNBatch) -> dict[str, Tensor]:
        """Losses of each image, (N,): "objectness" and "box", both divided by the number of sampled anchors."""
        maps = self.feature_maps(batch.images, batch.sizes)
        anchors = self.anchors(maps)
        with torch.no_grad():
            kind, matched = self.assign(anchors, batch.boxes, batch.labels, batch.crowds, batch.sizes)
            index, valid = sample(kind, batch.seeds, self.samples, self.positive_share, self.anchors.names(maps))
            is_object = (kind.gather(1, index) == POSITIVE) & valid
            boxes = take(batch.boxes, matched.gather(1, index))
        logits, targets = (output.float() for output in self.head.at(maps, index))
        number = valid.sum(dim=1).clamp(min=1)
        objectness = functional.binary_cross_entropy_with_logits(logits, is_object.to(logits.dtype), reduction="none")
        distance = self.box_loss(targets, boxes, anchors[index], is_object, self.coder)
        return {
            "objectness": (objectness * valid).sum(dim=1) / number,
            "box": distance.sum(dim=1) / number,
        }

    def assign(
        self, anchors: Tensor, boxes: Tensor, labels: Tensor, crowds: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The target of each anchor: `kind` (N, A) int8, and the position (N, A) of its assigned ground truth."""
        takes_part = None
        if self.allowed_border is not None:
            takes_part = box_ops.inside(anchors, sizes, self.allowed_border)
        ground_truth, kind = match(
            boxes,
            (labels > 0) & ~crowds,
            anchors,
            takes_part,
            positive=self.positive_iou,
            negative=self.negative_iou,
            best_is_positive=True,
            overlaps_at_once=self.kernels.overlaps_at_once,
        )
        if self.crowd_overlap is not None:
            at_once = self.kernels.overlaps_at_once
            in_crowd = inside_any(anchors, boxes, crowds, self.crowd_overlap, overlaps_at_once=at_once)
            kind = kind.masked_fill(in_crowd & (kind != POSITIVE), IGNORED)
        return kind, ground_truth

    @torch.no_grad()
    def propose(
        self,
        images: Tensor,
        sizes: Tensor,
        *,
        before_nms: int | None,
        after_nms: int,
        nms_iou: float = 0.7,
        min_sides: Tensor | None = None,
    ) -> Proposals:
        """Proposals of uint8 images (N, 3, H, W) whose sizes (N, 2) are (height, width) within the padding.

        The order is that of py-faster-rcnn's `proposal_layer.py`: boxes are clipped to the image, small ones are
        dropped, the best of the rest go into NMS. (Detectron and torchvision take the best first, and drop small ones
        among them.)

        Args:
            before_nms: at most this many of the best boxes of each level go into NMS; None takes all.
            after_nms: at most this many proposals an image, over all levels.
            nms_iou: NMS threshold.
            min_sides: (N, 2) smallest height and width in pixels of the network's input; smaller boxes are dropped, as
                are those without area.
        """
        logits, targets, anchors, maps = self.predict(images, sizes)
        boxes = box_ops.clip(self.coder.decode(targets, anchors), sizes)
        width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        valid = (width > 0) & (height > 0)
        if min_sides is not None:
            valid &= (height >= min_sides[:, :1]) & (width >= min_sides[:, 1:])
        logits = logits.masked_fill(~valid, -torch.inf)
        boxes, scores = self._suppress(boxes, logits, maps, before_nms, after_nms, nms_iou)
        kept = scores > -torch.inf
        return Proposals(
            boxes.masked_fill(~kept[..., None], 0),
            # cummin keeps them descending despite the rounding of a GPU's sigmoid.
            scores.sigmoid().cummin(dim=1).values.masked_fill(~kept, 0),
            kept.sum(dim=1),
        )

    def _suppress(
        self,
        boxes: Tensor,
        logits: Tensor,
        maps: list[Tensor],
        before_nms: int | None,
        after_nms: int,
        nms_iou: float,
    ) -> tuple[Tensor, Tensor]:
        """NMS of all boxes (N, A, 4): the remaining boxes (N, R, 4), and their logits (N, R) in descending order.

        NMS runs on the best boxes of each level; then the best of all levels are kept (Feature Pyramid Networks,
        section 4.1). Input boxes with a logit of -inf are ignored; in the output a logit of -inf marks padding.
        """
        parts, start = [], 0
        for features in maps:
            count = self.anchors.per_position * features.shape[-2] * features.shape[-1]
            own, own_boxes = logits[:, start : start + count], boxes[:, start : start + count]
            start += count
            own, index = own.topk(torch.sym_min(before_nms or count, count), dim=1)  # sym_min: for torch.export
            own_boxes = take(own_boxes, index)
            index, kept = self.kernels.suppress(own_boxes, own > -torch.inf, nms_iou, after_nms)
            parts.append((take(own_boxes, index), own.gather(1, index).masked_fill(~kept, -torch.inf)))
        if len(parts) == 1:
            return parts[0]
        boxes, logits = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        logits, index = logits.topk(torch.sym_min(after_nms, logits.shape[1]), dim=1)
        return take(boxes, index), logits
