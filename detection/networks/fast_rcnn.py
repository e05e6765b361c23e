"""The region classifier: images and proposals → classes and refined boxes.

It has its own backbone and shares nothing with the proposal network. The trunk runs on the whole image, the box head
computes a vector for each region, and two sibling output layers predict its class and a box for each class. In the
paper's network the trunk is conv1–conv4, and the box head pools each region from C4 and runs conv5 on it.

Shapes: N images, C channels, R proposals, G ground-truth boxes, S sampled regions, K classes, D detections.
Source: Fast R-CNN sections 2.1–2.3; Deep Residual Learning appendix A (conv5 per region); py-faster-rcnn
`proposal_target_layer.py` and `test.py`; Shrivastava et al., "Training Region-based Object Detectors with Online Hard
Example Mining", section 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from backbones import Backbone
from detection.geometry import boxes as box_ops
from detection.geometry.coding import BoxCoder
from detection.geometry.matching import IGNORED, POSITIVE, Matches, inside_any, match
from detection.geometry.sampling import sample
from detection.geometry.tensors import take
from detection.kernels.choice import PLAIN
from detection.networks.box_heads import BoxHead
from detection.networks.box_loss import BoxLoss, BoxLossKind
from detection.networks.detections import PLAIN_NMS, Candidates, Detections, Suppression, select_detections
from detection.networks.network_input import prepare
from detection.networks.region_head import PRECISE_LAYERS, Stage, classify, output_layers
from detection.networks.region_loss import RegionLoss, Targets

__all__ = ["Detections", "FastRCNN", "FastRCNNBatch", "Scored", "Targets"]

OHEM_NMS_IOU = 0.7  # Shrivastava et al., section 4.2: regions that overlap a harder one have nearly its loss


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


class Scored(NamedTuple):
    """`probabilities` (N, R, K) of the classes, and box `targets` (N·R, K, 4), or (N·R, 1, 4) for all classes, relative
    to `regions` (N, R, 4) as `coder` encodes them."""

    probabilities: Tensor
    targets: Tensor
    regions: Tensor
    coder: BoxCoder


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
        sampling: "random", or "ohem": the S regions with the highest losses of all (online hard example mining).
        smooth_l1_beta: where the box loss turns from quadratic to linear (1 / σ²).
        box_loss, box_loss_weight: see `BoxLoss`.
        class_weights: see `RegionLoss`.
        crowd_overlap: proposals with at least this share of their area inside a crowd region are ignored; None keeps
            all of them.
        boxes_of_class: whether a box is predicted for each class, or one for all.

    Attributes:
        kernels: the forms of functions that have several; see `detection.kernels.choice`.
    """

    precise_layers = PRECISE_LAYERS

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
        sampling: Literal["random", "ohem"] = "random",
        smooth_l1_beta: float = 1.0,
        box_loss: BoxLossKind = "smooth_l1",
        box_loss_weight: float = 1.0,
        class_weights: Tensor | None = None,
        crowd_overlap: float | None = 0.7,
        boxes_of_class: bool = True,
    ) -> None:
        super().__init__()
        if list(trunk.strides.values()) != list(box_head.strides):
            raise ValueError(f"a box head of strides {box_head.strides} for a trunk of strides {dict(trunk.strides)}")
        self.trunk = trunk
        self.box_head = box_head
        self.class_logits, self.box_targets = output_layers(
            box_head.out_channels, classes, classes if boxes_of_class else 1
        )
        self.classes = classes
        self.boxes_of_class = boxes_of_class
        self.coder = coder or BoxCoder((0.1, 0.1, 0.2, 0.2))
        self.positive_iou = positive_iou
        self.background_low = background_low
        self.samples = samples
        self.positive_share = positive_share
        self.sampling = sampling
        self.loss = RegionLoss(BoxLoss(box_loss, beta=smooth_l1_beta, weight=box_loss_weight), class_weights)
        self.crowd_overlap = crowd_overlap
        self.kernels = PLAIN

    def stages(self) -> Iterator[Stage]:
        """The heads in their order; here it is one."""
        yield Stage(self, self.coder, 1.0)

    def feature_maps(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        """The trunk's maps, finest first, of uint8 images (N, 3, H, W) whose sizes (N, 2) are (height, width) within
        the padding."""
        return list(self.trunk(prepare(images, sizes, self.trunk.input_format)).values())

    def predict(self, images: Tensor, sizes: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N·R, K + 1) and box targets (N·R, K, 4) of regions (N, R, 4) of uint8 images (N, 3, H, W)."""
        return classify(self, self.feature_maps(images, sizes), regions)

    def forward(self, batch: FastRCNNBatch) -> dict[str, Tensor]:
        """Losses of each image, (N,): "class" and "box", both divided by the number of regions sampled in the image."""
        with torch.no_grad():
            goal = self.sample_regions(batch) if self.sampling == "random" else self.all_regions(batch)
        maps = self.feature_maps(batch.images, batch.sizes)
        if self.sampling == "ohem":
            goal = self.hardest(maps, goal)
        return self.loss(*classify(self, maps, goal.regions), goal, self.coder)

    def sample_regions(self, batch: FastRCNNBatch) -> Targets:
        """Samples the training regions from the proposals and the ground-truth boxes together."""
        every, kind = self._candidates(batch)
        proposal, ground_truth = (
            torch.arange(count, device=kind.device)
            for count in (kind.shape[1] - batch.boxes.shape[1], batch.boxes.shape[1])
        )
        # Names for the random sampling that do not depend on padding: proposals count up from 0, ground truth counts
        # down from -1.
        names = torch.cat([proposal, -1 - ground_truth])
        index, valid = sample(kind, batch.seeds, self.samples, self.positive_share, names)
        return _at(every, index, valid)

    def all_regions(self, batch: FastRCNNBatch) -> Targets:
        """All proposals and ground-truth boxes together; those that are ignored are not valid."""
        return self._candidates(batch)[0]

    @torch.no_grad()
    def hardest(self, maps: Sequence[Tensor], every: Targets) -> Targets:
        """Of all regions, (N, R), the S of each image with the highest losses, without those that overlap a harder one.

        The box head runs on all regions once more, without gradients and with fixed statistics of normalisation: the
        losses are those of its evaluation mode, and running statistics are not changed.
        """
        training = self.box_head.training  # type: ignore[attr-defined]
        self.box_head.eval()  # type: ignore[attr-defined]
        try:
            predicted = classify(self, maps, every.regions)
        finally:
            self.box_head.train(training)  # type: ignore[attr-defined]
        mistake, distance = self.loss.of_each(*predicted, every, self.coder)
        order = (mistake + distance).masked_fill(~every.valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked = take(every.regions, order)
        index, kept = self.kernels.suppress(ranked, every.valid.gather(1, order), OHEM_NMS_IOU, self.samples)
        return _at(every, order.gather(1, index), kept)

    def _candidates(self, batch: FastRCNNBatch) -> tuple[Targets, Tensor]:
        """All proposals and ground-truth boxes with their targets, and the kind (N, R + G) of each."""
        if batch.proposals is None or batch.proposal_counts is None:
            raise ValueError("the Fast R-CNN learns from proposals, and the batch holds none")
        proposals, boxes = batch.proposals, batch.boxes
        is_proposal = torch.arange(proposals.shape[1], device=proposals.device) < batch.proposal_counts[:, None]
        matches = self.assign(batch, proposals, is_proposal, self.positive_iou, self.background_low)
        # A ground truth is assigned to itself: the time to compute the overlaps of all with all grows with the square
        # of their number.
        is_target = (batch.labels > 0) & ~batch.crowds
        own_kind = torch.where(is_target, POSITIVE, IGNORED).to(matches.kind.dtype)
        kind = torch.cat([matches.kind, own_kind], dim=1)
        own = torch.arange(boxes.shape[1], device=boxes.device).expand_as(batch.labels)
        assigned = torch.cat([matches.ground_truth, own], dim=1)
        labels = batch.labels.gather(1, assigned).masked_fill(kind != POSITIVE, 0)
        regions = torch.cat([proposals, boxes], dim=1)
        return Targets(regions, labels, take(boxes, assigned), kind != IGNORED), kind

    def assign(
        self, batch: FastRCNNBatch, regions: Tensor, takes_part: Tensor, positive_iou: float, background_low: float
    ) -> Matches:
        """The kind and the ground truth of each region (N, R, 4) for which `takes_part` (N, R) is True."""
        at_once = self.kernels.overlaps_at_once
        matches = match(
            batch.boxes,
            (batch.labels > 0) & ~batch.crowds,
            regions,
            takes_part,
            positive=positive_iou,
            negative=positive_iou,
            negative_low=background_low,
            overlaps_at_once=at_once,
        )
        if self.crowd_overlap is None:
            return matches
        in_crowd = inside_any(regions, batch.boxes, batch.crowds, self.crowd_overlap, overlaps_at_once=at_once)
        return matches._replace(kind=matches.kind.masked_fill(in_crowd, IGNORED))

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
        suppression: Suppression = PLAIN_NMS,
    ) -> list[Detections]:
        """Detections in uint8 images (N, 3, H, W), in pixels of the network's input.

        Args:
            sizes: (N, 2) height and width of the images within the padding.
            regions: (N, R, 4) proposals in pixels of the network's input; the first `counts` (N,) are proposals, the
                rest is padding.
            min_score: only classes with a probability above this are detected.
            nms_iou, limit, suppression: see `select_detections`.
        """
        maps = self.feature_maps(images, sizes)
        candidates = self.candidates(maps, sizes, regions, counts, min_score=min_score)
        return select_detections(
            candidates, len(regions), self.classes, self.kernels, suppression, nms_iou=nms_iou, limit=limit
        )

    @torch.no_grad()
    def candidates(
        self, maps: Sequence[Tensor], sizes: Tensor, regions: Tensor, counts: Tensor, *, min_score: float
    ) -> Candidates:
        """The boxes of each region and class with a probability above `min_score`, within the image, before the
        suppression. maps: of `feature_maps`; the other arguments as for `detect`."""
        scored = self.score(maps, sizes, regions)
        most = regions.shape[1]
        is_region = torch.arange(most, device=counts.device) < counts[:, None]
        image, region, label = ((scored.probabilities > min_score) & is_region[..., None]).nonzero(as_tuple=True)
        targets = scored.targets.expand(-1, self.classes, -1)[image * most + region, label]
        boxes = scored.coder.decode(targets, scored.regions[image, region])
        boxes = box_ops.clip(boxes[:, None], sizes[image]).squeeze(1)
        return Candidates(image, boxes, scored.probabilities[image, region, label], label + 1)

    def score(self, maps: Sequence[Tensor], sizes: Tensor, regions: Tensor) -> Scored:
        """The probability of each class for regions (N, R, 4), and the targets of their boxes. maps: of
        `feature_maps`, for images of `sizes` (N, 2)."""
        logits, targets = classify(self, maps, regions)
        probabilities = logits.softmax(dim=1)[:, 1:].reshape(*regions.shape[:2], self.classes)
        return Scored(probabilities, targets, regions, self.coder)

    def operators_without_deterministic_form(self, device: torch.device) -> list[str]:
        """The operators of the training, in words, whose gradient differs from run to run on this device."""
        if not any(parameter.requires_grad for parameter in self.trunk.parameters()):
            return []  # no gradient goes through the pooling
        return self.box_head.operators_without_deterministic_form(device)


def _at(every: Targets, index: Tensor, valid: Tensor) -> Targets:
    """The targets at positions (N, S), of which `valid` (N, S) are sampled."""
    labels = every.labels.gather(1, index).masked_fill(~valid, 0)
    return Targets(take(every.regions, index), labels, take(every.boxes, index), valid)
