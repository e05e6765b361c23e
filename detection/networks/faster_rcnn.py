"""RPN + Fast R-CNN → one detector: the RPN proposes regions and the Fast R-CNN classifies them, each with a backbone of
its own.

Shapes: N images, R proposals, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from detection.networks.detections import PLAIN_NMS, Candidates, Detections, Suppression, joined, select_detections
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.network_input import mirrored
from detection.networks.rpn import RPN, Proposals


class View(NamedTuple):
    """The images (N, 3, H, W) at one size, as uint8 RGB padded at the right and the bottom, `sizes` (N, 2) within the
    padding, and whether they are to be flipped horizontally."""

    images: Tensor
    sizes: Tensor
    is_mirrored: bool = False


class FasterRCNN(nn.Module):
    """Two networks that were trained separately, and the settings with which they are combined.

    Args:
        rpn, fast_rcnn: the networks.
        before_nms: at most this many of the RPN's best boxes of each level go into NMS; None takes all.
        proposals: at most this many proposals an image are classified.
        proposal_nms_iou: NMS threshold among proposals.
        min_side: smallest side of a proposal, in pixels of the original image.
        min_score, nms_iou, detections, suppression: see `FastRCNN.detect`.
    """

    def __init__(
        self,
        rpn: RPN,
        fast_rcnn: FastRCNN,
        *,
        before_nms: int | None = 6000,
        proposals: int = 300,
        proposal_nms_iou: float = 0.7,
        min_side: float = 16.0,
        min_score: float = 0.05,
        nms_iou: float = 0.3,
        detections: int = 100,
        suppression: Suppression = PLAIN_NMS,
    ) -> None:
        super().__init__()
        self.rpn = rpn
        self.fast_rcnn = fast_rcnn
        self.before_nms = before_nms
        self.proposals = proposals
        self.proposal_nms_iou = proposal_nms_iou
        self.min_side = min_side
        self.min_score = min_score
        self.nms_iou = nms_iou
        self.detections = detections
        self.suppression = suppression

    def propose(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> Proposals:
        """Proposals in pixels of the network's input. Arguments as for `forward`."""
        return self.rpn.propose(
            images,
            sizes,
            before_nms=self.before_nms,
            after_nms=self.proposals,
            nms_iou=self.proposal_nms_iou,
            min_sides=self.min_side * sizes / original_sizes,
        )

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Tensor, original_sizes: Tensor) -> list[Detections]:
        """Detections of each image, in pixels of the original image.

        Args:
            images: (N, 3, H, W) uint8 RGB, padded at the right and the bottom.
            sizes: (N, 2) height and width of the images within the padding.
            original_sizes: (N, 2) height and width before the images were resized.
        """
        boxes, _, counts = self.propose(images, sizes, original_sizes)
        return self.classify(self.fast_rcnn.feature_maps(images, sizes), sizes, original_sizes, boxes, counts)

    @torch.no_grad()
    def classify(
        self, maps: Sequence[Tensor], sizes: Tensor, original_sizes: Tensor, regions: Tensor, counts: Tensor
    ) -> list[Detections]:
        """Detections of each image among regions of any source.

        Args:
            maps: of the Fast R-CNN's `feature_maps`. sizes, original_sizes: as for `forward`.
            regions: (N, R, 4) in pixels of the network's input; the first `counts` (N,) are regions, the rest padding.
        """
        found = self.fast_rcnn.candidates(maps, sizes, regions, counts, min_score=self.min_score)
        return [
            one._replace(boxes=to_original(one.boxes[None], sizes[i : i + 1], original_sizes[i : i + 1])[0])
            for i, one in enumerate(self._selected(found, len(sizes)))
        ]

    @torch.no_grad()
    def detect_in_views(
        self,
        views: Sequence[View],
        original_sizes: Tensor,
        regions: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> list[Detections]:
        """Detections of each image from several views of it (test-time augmentation), in pixels of the original image.

        In each view the RPN proposes regions of its own and the Fast R-CNN classifies them. The boxes of all views, in
        pixels of the original image, go through one suppression: the union heuristic, the only one that Detectron
        allows for a detector that proposes its regions itself (`im_detect_bbox_aug` in `detectron/core/test.py`).

        regions, counts: classified in place of proposals, (N, R, 4) in pixels of the original image, and (N,).
        """
        parts = []
        for view in views:
            images = mirrored(view.images, view.sizes) if view.is_mirrored else view.images
            if regions is None or counts is None:
                boxes, _, number = self.propose(images, view.sizes, original_sizes)
            else:
                boxes, number = _in_view(regions, view, original_sizes), counts
            maps = self.fast_rcnn.feature_maps(images, view.sizes)
            found = self.fast_rcnn.candidates(maps, view.sizes, boxes, number, min_score=self.min_score)
            parts.append(_in_original(found, view, original_sizes))
        return self._selected(joined(parts), len(original_sizes))

    def _selected(self, found: Candidates, images: int) -> list[Detections]:
        fast_rcnn = self.fast_rcnn
        return select_detections(
            found,
            images,
            fast_rcnn.classes,
            fast_rcnn.kernels,
            self.suppression,
            nms_iou=self.nms_iou,
            limit=self.detections,
        )


def _in_original(found: Candidates, view: View, original_sizes: Tensor) -> Candidates:
    sizes, boxes = view.sizes[found.images], found.boxes[:, None]
    if view.is_mirrored:
        boxes = _mirrored_boxes(boxes, sizes)
    return found._replace(boxes=to_original(boxes, sizes, original_sizes[found.images]).squeeze(1))


def _in_view(regions: Tensor, view: View, original_sizes: Tensor) -> Tensor:
    boxes = to_original(regions, original_sizes, view.sizes)
    return _mirrored_boxes(boxes, view.sizes) if view.is_mirrored else boxes


def _mirrored_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (N, R, 4) after each of the images, of sizes (N, 2), was flipped horizontally."""
    x0, y0, x1, y1 = boxes.unbind(2)
    width = sizes[:, 1:]
    return torch.stack([width - x1, y0, width - x0, y1], dim=2)


def to_original(boxes: Tensor, sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Boxes (N, R, 4) in pixels of resized images → pixels of the originals; both sizes are (N, 2), (height, width)."""
    scale = (original_sizes / sizes).to(boxes.dtype).flip(-1)  # (N, 2): x, y
    return boxes * scale.repeat(1, 2)[:, None]
