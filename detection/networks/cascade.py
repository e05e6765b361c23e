"""The region classifier as a cascade: each head refines the boxes of the one before, and learns from better ones.

The heads share the trunk and nothing else. The first one learns from the proposals as a plain Fast R-CNN does. Each
further one takes the boxes that the one before makes of its regions, and assigns them anew, at a higher IoU. Boxes are
predicted for all classes together. At inference the scores of all heads are averaged, and the boxes are the last one's.

Shapes: N images, R proposals, S sampled regions, K classes.
Source: Cai and Vasconcelos, "Cascade R-CNN", section 4; detectron2 `modeling/roi_heads/cascade_rcnn.py`, which samples
the regions once for all heads, as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbones import Backbone
from detection.geometry import boxes as box_ops
from detection.geometry.coding import BoxCoder
from detection.geometry.matching import IGNORED, POSITIVE
from detection.geometry.tensors import take
from detection.networks.box_heads import BoxHead
from detection.networks.fast_rcnn import FastRCNN, FastRCNNBatch, Scored
from detection.networks.region_head import RegionHead, Stage, classify
from detection.networks.region_loss import Targets


class CascadeRCNN(FastRCNN):
    """Trunk + several box heads, one after the other.

    The standard deviations of the box targets are those of `coder` for the first head, and 1/k of them for head k
    (detectron2's ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS), with means of zero. The losses of head k have the weight
    1 / 2^(k−1) (mmdetection's `configs/_base_/models/cascade-rcnn_r50_fpn.py`: 1, 0.5, 0.25).

    Args:
        box_heads: one for each stage, at least two, of the same strides.
        positive_ious: the IoU from which a region is an object, for each stage after the first.
        arguments: the others of `FastRCNN`.

    Attributes:
        further: the heads after the first one, which has the names of a plain Fast R-CNN's.
    """

    def __init__(
        self,
        trunk: Backbone,
        box_heads: Sequence[BoxHead],
        *,
        classes: int,
        positive_ious: Sequence[float],
        **arguments: Any,
    ) -> None:
        if len(box_heads) != len(positive_ious) + 1 or len(box_heads) < 2:
            raise ValueError(f"{len(box_heads)} box heads for {len(positive_ious)} IoUs of stages after the first")
        super().__init__(trunk, box_heads[0], classes=classes, boxes_of_class=False, **arguments)
        if self.sampling != "random":
            raise ValueError("a cascade samples its regions at random")
        self.further = nn.ModuleList(RegionHead(head, classes) for head in box_heads[1:])
        self.positive_ious = tuple(positive_ious)
        self.coders = [self.coder] + [
            BoxCoder([std / number for std in self.coder.stds]) for number in range(2, len(box_heads) + 1)
        ]

    def stages(self) -> Iterator[Stage]:
        """See `FastRCNN.stages`."""
        heads: list[Any] = [self, *self.further]
        for number, (head, coder) in enumerate(zip(heads, self.coders, strict=True)):
            yield Stage(head, coder, 0.5**number)

    def forward(self, batch: FastRCNNBatch) -> dict[str, Tensor]:
        """Losses of each image, (N,): "class" and "box" of the first stage, "class_2" and "box_2" of the second, …"""
        with torch.no_grad():
            goal = self.sample_regions(batch)
        maps = self.feature_maps(batch.images, batch.sizes)
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages(), start=1):
            logits, targets = classify(stage.head, maps, goal.regions)
            own = self.loss(logits, targets, goal, stage.coder)
            losses |= {name if number == 1 else f"{name}_{number}": loss * stage.weight for name, loss in own.items()}
            if number <= len(self.further):
                with torch.no_grad():
                    refined = self._refined(stage, targets, goal.regions, batch.sizes)
                    goal = self._assigned_anew(batch, refined, goal.valid, self.positive_ious[number - 1])
        return losses

    def predict(self, images: Tensor, sizes: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Not of a cascade: its boxes are relative to regions of its own, see `score`."""
        raise TypeError("the outputs of a cascade do not belong to the regions that it is given; use score or detect")

    def score(self, maps: Sequence[Tensor], sizes: Tensor, regions: Tensor) -> Scored:
        """The mean of the stages' probabilities for regions (N, R, 4), and the box targets of the last stage."""
        *first, last = self.stages()
        probabilities = []
        for stage in first:
            logits, targets = classify(stage.head, maps, regions)
            probabilities.append(logits.softmax(dim=1))
            regions = self._refined(stage, targets, regions, sizes)
        logits, targets = classify(last.head, maps, regions)
        mean = torch.stack([*probabilities, logits.softmax(dim=1)]).mean(dim=0)
        return Scored(mean[:, 1:].reshape(*regions.shape[:2], self.classes), targets, regions, last.coder)

    def _refined(self, stage: Stage, targets: Tensor, regions: Tensor, sizes: Tensor) -> Tensor:
        """The boxes (N, R, 4) that a stage makes of its regions, within the images."""
        return box_ops.clip(stage.coder.decode(targets.view_as(regions), regions), sizes)

    def _assigned_anew(self, batch: FastRCNNBatch, regions: Tensor, valid: Tensor, positive_iou: float) -> Targets:
        """The same regions after their refinement, with the targets of the next stage; those without area are left
        out."""
        valid = valid & (regions[..., 2:] > regions[..., :2]).all(dim=2)
        matches = self.assign(batch, regions, valid, positive_iou, 0.0)
        labels = batch.labels.gather(1, matches.ground_truth).masked_fill(matches.kind != POSITIVE, 0)
        return Targets(regions, labels, take(batch.boxes, matches.ground_truth), matches.kind != IGNORED)
