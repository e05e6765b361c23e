"""RPN + Fast R-CNN → one detector: the RPN proposes regions and the Fast R-CNN classifies them, each with a backbone of
its own.

Shapes: N images, R proposals, D detections.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detection.networks.fast_rcnn import Detections, FastRCNN
from detection.networks.rpn import RPN, Proposals


class FasterRCNN(nn.Module):
    """Two networks that were trained separately, and the settings with which they are combined.

    Args:
        rpn, fast_rcnn: the networks.
        before_nms: at most this many of the RPN's best boxes of each level go into NMS; None takes all.
        proposals: at most this many proposals an image are classified.
        proposal_nms_iou: NMS threshold among proposals.
        min_side: smallest side of a proposal, in pixels of the original image.
        min_score, nms_iou, detections: see `FastRCNN.detect`.
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
        return self.classify(images, sizes, original_sizes, boxes, counts)

    @torch.no_grad()
    def classify(
        self, images: Tensor, sizes: Tensor, original_sizes: Tensor, regions: Tensor, counts: Tensor
    ) -> list[Detections]:
        """Detections of each image among regions of any source.

        Args:
            images, sizes, original_sizes: as for `forward`.
            regions: (N, R, 4) in pixels of the network's input; the first `counts` (N,) are regions, the rest padding.
        """
        found = self.fast_rcnn.detect(
            images, sizes, regions, counts, min_score=self.min_score, nms_iou=self.nms_iou, limit=self.detections
        )
        return [
            one._replace(boxes=to_original(one.boxes[None], sizes[i : i + 1], original_sizes[i : i + 1])[0])
            for i, one in enumerate(found)
        ]


def to_original(boxes: Tensor, sizes: Tensor, original_sizes: Tensor) -> Tensor:
    """Boxes (N, R, 4) in pixels of resized images → pixels of the originals; both sizes are (N, 2), (height, width)."""
    scale = (original_sizes / sizes).to(boxes.dtype).flip(-1)  # (N, 2): x, y
    return boxes * scale.repeat(1, 2)[:, None]
