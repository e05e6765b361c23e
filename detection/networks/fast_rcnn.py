"""The region classifier: images and proposals → classes and refined boxes.

It has its own backbone and shares nothing with the proposal network. The trunk runs on the whole image, the box head
computes a vector for each region, and two sibling output layers predict its class and a box for each class. In the
paper's network the trunk is conv1–conv4, and the box head pools each region from C4 and runs conv5 on it.

Shapes: N images, C channels, R proposals, G ground-truth boxes, S sampled regions, K classes, D detections.
Source: Fast R-CNN sections 2.1–2.3; Deep Residual Learning appendix A (conv5 per region); py-faster-rcnn
`proposal_target_layer.py` and `test.py`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones import Backbone
from detection.geometry import boxes as box_ops
from detection.geometry.coding import BoxCoder
from detection.geometry.matching import IGNORED, POSITIVE, inside_any, match
from detection.geometry.sampling import sample
from detection.geometry.tensors import take
from detection.kernels.choice import PLAIN
from detection.networks.box_heads import BoxHead
from detection.networks.network_input import prepare


class FastRCNNBatch(Protocol):
    """The part of a batch that the losses use; `detection.data.batches.Batch` has it."""

    images: Tensor  # (N, 3, H, W) uint8 RGB, padded at the right and the bottom
    sizes: Tensor  # (N, 2) int64: height and width of the image within the padding
    boxes: Tensor  # (N, G, 4) ground truth, in pixels of `images`
    labels: Tensor  # (N, G) int64: 1..K, 0 is padding
    crowds: Tensor  # (N, G) bool: crowd regions, which are not targets
    proposals: Tensor | None  # (N, R, 4), in pixels of `images`
    proposal_counts: Tensor | None  # (N,): how many of the R are proposals
    seeds: Tensor  # (N,) int64: seeds of the sampling in each image


class Targets(NamedTuple):
    """The sampled regions and their targets: `regions` (N, S, 4), `labels` (N, S) with 0 for background, `boxes` (N, S,
    4), the ground truth each region is assigned to, and `valid` (N, S), False where an image has fewer than S."""

    regions: Tensor
    labels: Tensor
    boxes: Tensor
    valid: Tensor


class Detections(NamedTuple):
    """The detections of one image in descending order of score: `boxes` (D, 4), `scores` (D,) in 0–1, and `labels` (D,)
    int64 in 1..K."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class FastRCNN(nn.Module):
    """Trunk + box head + two sibling outputs. `forward` returns the losses of a batch, `detect` the detections.

    Args:
        trunk: images → a dict of feature maps, finest first.
        box_head: feature maps and regions → vectors (N·R, C).
        classes: K, without the background.
        coder: encodes boxes relative to their regions.
        positive_iou: a region is an object at or above this IoU with a ground truth.
        background_low: a region is background from this IoU up to `positive_iou`; below this it is ignored.
        samples: S, regions an image that the losses are taken over.
        positive_share: at most this share of them are objects.
        smooth_l1_beta: where the box loss turns from quadratic to linear (1 / σ²).
        crowd_overlap: proposals with at least this share of their area inside a crowd region are ignored; None keeps
            all of them.

    Attributes:
        kernels: the forms of functions that have several; see `detection.kernels.choice`.
    """

    def __init__(
        self,
        trunk: Backbone,
        box_head: BoxHead,
        *,
        classes: int,
        coder: BoxCoder | None = None,
        positive_iou: float = 0.5,
        background_low: float = 0.0,
        samples: int = 64,
        positive_share: float = 0.25,
        smooth_l1_beta: float = 1.0,
        crowd_overlap: float | None = 0.7,
    ) -> None:
        super().__init__()
        if list(trunk.strides.values()) != list(box_head.strides):
            raise ValueError(f"a box head of strides {box_head.strides} for a trunk of strides {dict(trunk.strides)}")
        self.trunk = trunk
        self.box_head = box_head
        self.class_logits = nn.Linear(box_head.out_channels, classes + 1)
        self.box_targets = nn.Linear(box_head.out_channels, 4 * classes)
        for layer, std in ((self.class_logits, 0.01), (self.box_targets, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.classes = classes
        self.coder = coder or BoxCoder((0.1, 0.1, 0.2, 0.2))
        self.positive_iou = positive_iou
        self.background_low = background_low
        self.samples = samples
        self.positive_share = positive_share
        self.smooth_l1_beta = smooth_l1_beta
        self.crowd_overlap = crowd_overlap
        self.kernels = PLAIN

    def predict(self, images: Tensor, sizes: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N·R, K + 1) and box targets (N·R, K, 4) of regions (N, R, 4) of uint8 images (N, 3, H, W)."""
        maps = list(self.trunk(prepare(images, sizes, self.trunk.input_format)).values())
        features = self.box_head(maps, regions)
        return self.class_logits(features).float(), self.box_targets(features).float().unflatten(1, (self.classes, 4))

    def forward(self, batch: FastRCNNBatch) -> dict[str, Tensor]:
        """Losses of each image, (N,): "class" and "box", both divided by the number of regions sampled in the image."""
        with torch.no_grad():
            regions, labels, boxes, valid = self.sample_regions(batch)
            goal = self.coder.encode(boxes, regions).flatten(0, 1)
        logits, targets = self.predict(batch.images, batch.sizes, regions)
        flat_labels = labels.flatten()
        mistake = functional.cross_entropy(logits, flat_labels, reduction="none")
        own_class = (flat_labels - 1).clamp(min=0)[:, None, None].expand(-1, 1, 4)
        predicted = targets.gather(1, own_class).squeeze(1)
        distance = functional.smooth_l1_loss(predicted, goal, beta=self.smooth_l1_beta, reduction="none").sum(dim=1)
        number = valid.sum(dim=1).clamp(min=1)
        return {
            "class": (mistake.view_as(labels) * valid).sum(dim=1) / number,
            "box": torch.where((labels > 0) & valid, distance.view_as(labels), 0).sum(dim=1) / number,
        }

    def sample_regions(self, batch: FastRCNNBatch) -> Targets:
        """Samples the training regions from the proposals and the ground-truth boxes together."""
        if batch.proposals is None or batch.proposal_counts is None:
            raise ValueError("the Fast R-CNN learns from proposals, and the batch holds none")
        proposals, boxes = batch.proposals, batch.boxes
        is_target = (batch.labels > 0) & ~batch.crowds
        proposal, ground_truth = (torch.arange(rows.shape[1], device=rows.device) for rows in (proposals, boxes))
        matches = match(
            boxes,
            is_target,
            proposals,
            proposal < batch.proposal_counts[:, None],
            positive=self.positive_iou,
            negative=self.positive_iou,
            negative_low=self.background_low,
            overlaps_at_once=self.kernels.overlaps_at_once,
        )
        kind = matches.kind
        if self.crowd_overlap is not None:
            at_once = self.kernels.overlaps_at_once
            in_crowd = inside_any(proposals, boxes, batch.crowds, self.crowd_overlap, overlaps_at_once=at_once)
            kind = kind.masked_fill(in_crowd, IGNORED)
        # A ground truth is assigned to itself: the time to compute the overlaps of all with all grows with the square
        # of their number.
        own_kind = torch.where(is_target, POSITIVE, IGNORED).to(kind.dtype)
        kind = torch.cat([kind, own_kind], dim=1)
        assigned = torch.cat([matches.ground_truth, ground_truth.expand_as(batch.labels)], dim=1)
        candidates = torch.cat([proposals, boxes], dim=1)
        # Names for the random sampling that do not depend on padding: proposals count up from 0, ground truth counts
        # down from -1.
        names = torch.cat([proposal, -1 - ground_truth])
        index, valid = sample(kind, batch.seeds, self.samples, self.positive_share, names)
        matched = assigned.gather(1, index)
        is_object = (kind.gather(1, index) == POSITIVE) & valid
        labels = batch.labels.gather(1, matched).masked_fill(~is_object, 0)
        return Targets(take(candidates, index), labels, take(boxes, matched), valid)

    @torch.no_grad()
    def detect(
        self,
        images: Tensor,
        sizes: Tensor,
        regions: Tensor,
        counts: Tensor,
        *,
        min_score: float = 0.05,
        nms_iou: float = 0.3,
        limit: int = 100,
    ) -> list[Detections]:
        """Detections in uint8 images (N, 3, H, W), in pixels of the network's input.

        Args:
            sizes: (N, 2) height and width of the images within the padding.
            regions: (N, R, 4) proposals in pixels of the network's input; the first `counts` (N,) are proposals, the
                rest is padding.
            min_score: only classes with a probability above this are detected.
            nms_iou: NMS threshold, within a class.
            limit: at most this many detections an image, over all classes.
        """
        number, most = regions.shape[:2]
        logits, targets = self.predict(images, sizes, regions)
        probabilities = logits.softmax(dim=1)[:, 1:].reshape(number, most, self.classes)
        is_region = torch.arange(most, device=counts.device) < counts[:, None]
        image, region, label = ((probabilities > min_score) & is_region[..., None]).nonzero(as_tuple=True)
        scores = probabilities[image, region, label]
        boxes = self.coder.decode(targets[image * most + region, label], regions[image, region])
        boxes = box_ops.clip(boxes[:, None], sizes[image]).squeeze(1)
        kept = self.kernels.suppress_by_group(boxes, scores, image * self.classes + label, nms_iou)
        kept = kept[((boxes[kept, 2:] - boxes[kept, :2]) > 0).all(dim=1)]
        found = []
        for number_of_image in range(number):
            own = kept[image[kept] == number_of_image][:limit]
            found.append(Detections(boxes[own], scores[own], label[own] + 1))
        return found

    def operators_without_deterministic_form(self, device: torch.device) -> list[str]:
        """The operators of the training, in words, whose gradient differs from run to run on this device."""
        if not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            return []  # no gradient goes through the pooling
        return self.box_head.operators_without_deterministic_form(device)
