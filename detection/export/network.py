"""Both networks and everything around them as one module: decoded images of any size → detections in their pixels.

The module computes what `detection.Detector` computes, with the networks' own methods where their operators can be
exported. Sizes that depend on values remain within it: that of the resized image, and the number of detections.

Shapes: N images, H × W their padded size, R proposals, K classes, D detections.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from detection.data.augmentation import Augmentation
from detection.export.resizing import network_sizes, resize
from detection.export.suppression import NMS, UNLIMITED, nms, suppress_by, survivors
from detection.geometry import boxes as box_ops
from detection.geometry.tensors import take
from detection.kernels.choice import PLAIN, use_kernels
from detection.kernels.region_features import region_features, region_features_convolution_first
from detection.networks.faster_rcnn import FasterRCNN, to_original


class BatchDetector(nn.Module):
    """Images of one padded size → detections, in tensors of one size.

    Args:
        network: both networks, on the CPU, with plain kernels in contiguous memory; it is copied.
        resize: the resize to the size that the networks were trained for, without random choices.
        size_divisor: padded sides of the network's input are multiples of this.
        form: the form of NMS.
        convolution_first: the order of a C4 head; see `region_features_convolution_first`.
        float64: see `detection.export.resizing.resize`.
    """

    def __init__(
        self,
        network: FasterRCNN,
        resize: Augmentation,
        size_divisor: int,
        form: NMS = nms,
        *,
        convolution_first: bool = True,
        float64: bool = True,
    ) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        head = region_features_convolution_first if convolution_first else region_features
        use_kernels(self.network, dataclasses.replace(PLAIN, suppress=suppress_by(form), region_features=head))
        (self.shorter_side,) = resize.shorter_sides
        self.longer_side = resize.longer_side_max
        self.size_divisor = size_divisor
        self.form = form
        self.float64 = float64

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes float32 (N, D, 4) in pixels of the images, scores float32 (N, D), labels int64 (N, D) in 1..K, and
        counts int64 (N,). The first detections of an image, in descending order of score, are its own; then zeros.

        Args:
            images: (N, H, W, 3) uint8 RGB, padded at the right and the bottom.
            sizes: (N, 2) int64, height and width of the images within the padding.
        """
        new_sizes = network_sizes(sizes, self.shorter_side, self.longer_side)
        height, width = (self._padded(new_sizes[:, side]) for side in range(2))
        resized = resize(images, sizes, new_sizes, height, width, float64=self.float64).permute(0, 3, 1, 2)
        regions, _, counts = self.network.propose(resized, new_sizes, sizes)
        # Always as many, so that all later sizes are fixed: torch.export is slow with long expressions for sizes.
        regions = functional.pad(regions, (0, 0, 0, self.network.proposals - regions.shape[1]))
        boxes, scores, labels = self._classify(resized, new_sizes, regions, counts)
        found = scores > 0
        boxes = to_original(boxes, new_sizes, sizes)
        return boxes * found[..., None], scores, labels * found, found.sum(dim=1)

    def _padded(self, lengths: Tensor) -> int:
        """The largest of the lengths (N,), rounded up to a multiple of the divisor."""
        cells: int = ((lengths.max() + self.size_divisor - 1) // self.size_divisor).item()  # type: ignore[assignment]
        torch._check(cells >= 1)
        torch._check(cells * self.size_divisor < 1 << 20)
        return cells * self.size_divisor

    def _classify(
        self, images: Tensor, sizes: Tensor, regions: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, D, 4), scores (N, D) and labels (N, D); as `FastRCNN.detect`, in tensors of one size. A score of 0
        marks padding."""
        fast_rcnn, settings = self.network.fast_rcnn, self.network
        (number, most), classes = regions.shape[:2], fast_rcnn.classes
        logits, targets = fast_rcnn.predict(images, sizes, regions)
        is_region = torch.arange(most, device=counts.device) < counts[:, None]
        scores = logits.softmax(dim=1)[:, 1:].reshape(number, most, classes) * is_region[..., None]
        boxes = fast_rcnn.coder.decode(targets.view(number, most, classes, 4), regions[:, :, None])
        boxes = box_ops.clip(boxes.flatten(1, 2), sizes)  # (N, R·K, 4)
        sets_of_boxes = boxes.view(number, most, classes, 4).transpose(1, 2).flatten(0, 1)  # one for each class: N·K
        sets_of_scores = scores.transpose(1, 2).flatten(0, 1)
        kept = self.form(sets_of_boxes, sets_of_scores, settings.nms_iou, settings.min_score, UNLIMITED)
        survives = survivors(kept, sets_of_scores).view(number, classes, most).transpose(1, 2).flatten(1)
        survives &= (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        top = (scores.flatten(1) * survives).topk(torch.sym_min(settings.detections, most * classes), dim=1)
        return take(boxes, top.indices), top.values, top.indices % classes + 1


class ImageDetector(nn.Module):
    """One image of any size → its detections, by a detector of batches."""

    def __init__(self, batch_detector: BatchDetector) -> None:
        super().__init__()
        self.batch_detector = batch_detector

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes float32 (D, 4) in pixels of the image, scores float32 (D,) descending, and labels int64 (D,) in 1..K,
        of an image uint8 RGB (H, W, 3)."""
        height, width, _ = image.shape
        size = torch.stack([torch.scalar_tensor(side, dtype=torch.int64) for side in (height, width)])
        boxes, scores, labels, _ = self.batch_detector(image[None], size[None])
        found = scores[0] > 0
        return boxes[0, found], scores[0, found], labels[0, found]
