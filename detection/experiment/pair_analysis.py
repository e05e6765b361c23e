"""A detector and a split → its detections, and what of its losses is due to the proposals.

One pass over the images: the RPN and the Fast R-CNN's trunk run once, its box head on the proposals and on the boxes of
the objects. With test-time augmentation detections are those of all views, and the recall is that of the proposals in
the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from detection.data.batches import Batch
from detection.data.index import DatasetIndex
from detection.evaluation.proposal_share import Coverage, best_overlaps
from detection.experiment.inference import LESS_MEMORY, Inference, as_rows, batches_of_split, gather_rows, views_of
from detection.geometry.anchor_reach import best_anchor_iou
from detection.networks.detections import Detections
from detection.networks.faster_rcnn import FasterRCNN, to_original
from detection.training.distributed import gather_objects


@dataclass(frozen=True)
class PairDetections:
    """Rows (D, 7) of detections with the RPN's proposals, and of those with the ground truth in their place; and which
    objects the proposals cover."""

    rows: np.ndarray
    with_ground_truth: np.ndarray
    coverage: Coverage


def detect_pair(inference: Inference[FasterRCNN], index: DatasetIndex) -> PairDetections:
    """The detections of `inference.detect`, and the rest, the same on every rank."""
    position = {image_id: i for i, image_id in enumerate(index.image_ids.tolist())}
    rows, ideal = [np.empty((0, 7))], [np.empty((0, 7))]
    coverage = [np.empty((0, len(Coverage._fields)))]
    for batch in batches_of_split(inference, index, f"detecting on {index.name}", views=inference.views):
        unreadable = {image_id for image_id, _ in batch.problems}
        for image_id, (found, on_objects, proposals) in zip(
            batch.image_ids.tolist(), _detect_batch(inference, batch), strict=True
        ):
            i = position[image_id]
            readable = image_id not in unreadable
            coverage.append(_coverage(inference, index, i, proposals if readable else proposals[:0]))
            if readable:
                rows.append(as_rows(found, image_id, index))
                ideal.append(as_rows(on_objects, image_id, index))
    covered = np.concatenate([part for parts in gather_objects(coverage) for part in parts])
    return PairDetections(gather_rows(rows), gather_rows(ideal), Coverage(*covered.T))


def _coverage(inference: Inference[FasterRCNN], index: DatasetIndex, i: int, proposals: np.ndarray) -> np.ndarray:
    """The columns of `Coverage` for the objects of image i; proposals (R, 4), best first."""
    boxes, _, crowds = index.objects(i)
    boxes, areas = boxes[~crowds].astype(np.float64), index.areas[index.offsets[i] : index.offsets[i + 1]][~crowds]
    original = np.array([index.heights[i], index.widths[i]], dtype=np.float64)
    size = np.array(inference.resize.resized(int(original[0]), int(original[1]), 0), dtype=np.float64)
    scale = size / original
    anchors = best_anchor_iou(
        torch.from_numpy(boxes * np.tile(scale[::-1], 2)),
        torch.from_numpy(np.broadcast_to(size, (len(boxes), 2)).copy()),
        inference.network.rpn.anchors,
        divisor=inference.size_divisor,
    )
    half = proposals[: -(-len(proposals) // 2)]
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * scale.prod())
    return np.column_stack([areas, sides, best_overlaps(proposals, boxes), best_overlaps(half, boxes), anchors.numpy()])


def _detect_batch(inference: Inference[FasterRCNN], batch: Batch) -> list[tuple[Detections, Detections, np.ndarray]]:
    """Of each image: detections, detections with the objects as proposals, and proposals (R, 4) in its pixels."""
    with inference.computing(batch, LESS_MEMORY, "image ids") as batch:
        network, sizes, original = inference.network, batch.sizes, batch.original_sizes
        boxes, _, counts = network.propose(batch.images, sizes, original)
        objects, object_counts = _targets(batch)
        if views := views_of(inference, batch):
            found = network.detect_in_views(views, original)
            objects = to_original(objects, sizes, original)
            ideal = network.detect_in_views(views, original, objects, object_counts)
        else:
            maps = network.fast_rcnn.feature_maps(batch.images, sizes)
            found = network.classify(maps, sizes, original, boxes, counts)
            ideal = network.classify(maps, sizes, original, objects, object_counts)
        proposals = to_original(boxes, sizes, original).float().cpu().numpy()
    return [
        (one.on_cpu(), other.on_cpu(), own[:count])
        for one, other, own, count in zip(found, ideal, proposals, counts.tolist(), strict=True)
    ]


def _targets(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The boxes of the objects that are no crowd regions (N, R, 4), first in each row, at least one (a box of the whole
    image, which does not count, where there is none), and their numbers (N,)."""
    target = (batch.labels > 0) & ~batch.crowds
    if not target.shape[1]:
        whole = torch.cat([torch.zeros_like(batch.sizes), batch.sizes.flip(1)], dim=1).to(batch.boxes.dtype)
        return whole[:, None], target.sum(dim=1)
    order = torch.argsort(target.int(), dim=1, descending=True, stable=True)
    return batch.boxes.gather(1, order[..., None].expand(-1, -1, 4)), target.sum(dim=1)
