"""A network and a split → what it finds in each of the images; with several ranks, each looks at its share.

Shapes: R proposals, D detections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

import numpy as np
import torch

from detection import config as settings
from detection.common.progress import with_progress
from detection.data.batches import Batch
from detection.data.dataset import DetectionDataset
from detection.data.index import DatasetIndex
from detection.data.loader import evaluation_batches, evaluation_parts
from detection.evaluation.average_precision import AveragePrecision, average_precision
from detection.evaluation.recall import ProposalRecall, RecallAccumulator
from detection.experiment.datasets import test_augmentation
from detection.experiment.ground_truth_loading import ground_truth_of
from detection.experiment.placement import autocast_dtype
from detection.networks.faster_rcnn import FasterRCNN, to_original
from detection.networks.rpn import RPN
from detection.training.distributed import gather_objects, on_main, rank, world_size
from detection.training.memory import memory_explained

_LESS_MEMORY = "Lower runtime.test_batch, or the image size (data.test_shorter_side, data.test_longer_side)."


def average_precision_of(
    config: settings.Config, network: FasterRCNN, index: DatasetIndex, device: torch.device
) -> tuple[AveragePrecision, np.ndarray]:
    """The COCO figures of a detector on a split, and its detections, the same on every rank."""
    detections = detect(config, network, index, device)
    figures = on_main(lambda: average_precision(ground_truth_of(index), detections))
    return figures, detections


def proposal_recall_of(
    config: settings.Config, network: RPN, index: DatasetIndex, device: torch.device
) -> ProposalRecall:
    """The recall of an RPN on a split, at up to 2,000 proposals an image, the same on every rank."""
    limits = dataclasses.replace(config.rpn.test_proposals, after_nms=2000, before_nms=None)
    proposals = propose(config, network, index, device, limits)
    return recall_of(index, ((image_id, boxes) for image_id, boxes, _ in proposals))


def recall_of(index: DatasetIndex, proposals: Iterable[tuple[int, np.ndarray]]) -> ProposalRecall:
    """The recall of (image id, boxes (R, 4) in the original image, best first); each rank gives its share of them."""
    position = {image_id: i for i, image_id in enumerate(index.image_ids.tolist())}
    accumulator = RecallAccumulator()
    for image_id, boxes in proposals:
        i = position[image_id]
        truth, _, crowds = index.objects(i)
        areas = index.areas[index.offsets[i] : index.offsets[i + 1]]
        accumulator.add(image_id, boxes, truth, areas, crowds)
    first, *others = gather_objects(accumulator)
    for other in others:
        first.merge(other)
    return first.result()


def detect(config: settings.Config, network: FasterRCNN, index: DatasetIndex, device: torch.device) -> np.ndarray:
    """Detections (D, 7) in all images of a split: image_id, x, y, width, height, score, category_id; by image id.

    An image that cannot be read counts as one without detections, and a warning says so. All ranks get the whole.
    """
    network.eval()
    rows = [np.empty((0, 7))]
    for batch in _batches(config, index, device, f"detecting on {index.name}"):
        unreadable = {image_id for image_id, _ in batch.problems}
        with torch.inference_mode(), _autocast(config, device), memory_explained(batch, _LESS_MEMORY):
            found = network(batch.images, batch.sizes, batch.original_sizes)
        for image_id, one in zip(batch.image_ids.tolist(), found, strict=True):
            if image_id in unreadable:
                continue
            x0, y0, x1, y1 = one.boxes.cpu().double().numpy().T
            category_ids = index.category_ids[one.labels.cpu().numpy() - 1]
            scores = one.scores.cpu().double().numpy()
            rows.append(np.stack([np.full(len(x0), image_id), x0, y0, x1 - x0, y1 - y0, scores, category_ids], axis=1))
    together = np.concatenate([part for parts in gather_objects(rows) for part in parts])
    return together[np.argsort(together[:, 0], kind="stable")]


def propose(
    config: settings.Config,
    network: RPN,
    index: DatasetIndex,
    device: torch.device,
    limits: settings.ProposalLimits,
    *,
    pending: Collection[int] | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(image id, boxes (R, 4) in the original image, scores (R,) descending) of this rank's share of a split.

    An image that cannot be read has none, and a warning says so.

    pending: image ids that are wanted (None: all). With runtime.test_batch above 1 others come along, in the batches
    that they would share anyway.
    """
    network.eval()
    only = None if pending is None else set(np.flatnonzero(np.isin(index.image_ids, list(pending))).tolist())
    for batch in _batches(config, index, device, f"proposing on {index.name}", only):
        unreadable = {image_id for image_id, _ in batch.problems}
        with torch.inference_mode(), _autocast(config, device), memory_explained(batch, _LESS_MEMORY):
            found = network.propose(
                batch.images,
                batch.sizes,
                before_nms=limits.before_nms,
                after_nms=limits.after_nms,
                nms_iou=limits.nms_iou,
                min_sides=limits.min_side * batch.sizes / batch.original_sizes,
            )
        original = batch.original_sizes.flip(1).repeat(1, 2).unsqueeze(1)  # (N, 1, 4): width, height, width, height
        boxes = to_original(found.boxes, batch.sizes, batch.original_sizes).clamp(min=0).minimum(original)
        counts = found.counts.tolist()
        for image_id, own, scores, count in zip(
            batch.image_ids.tolist(), boxes.cpu().numpy(), found.scores.cpu().numpy(), counts, strict=True
        ):
            count = 0 if image_id in unreadable else count
            yield image_id, own[:count], scores[:count]


def _batches(
    config: settings.Config,
    index: DatasetIndex,
    device: torch.device,
    label: str,
    only: Collection[int] | None = None,
) -> Iterator[Batch]:
    """This rank's images of a split on the device, resized and batched, with a progress line."""
    dataset = DetectionDataset(index, test_augmentation(config.data), unreadable="blank")
    parts = evaluation_parts(
        dataset,
        rank=rank(),
        world=world_size(),
        batch_size=config.runtime.test_batch,
        size_divisor=config.data.size_divisor,
        only=only,
    )
    batches = evaluation_batches(
        dataset,
        parts,
        workers=config.runtime.workers,
        size_divisor=config.data.size_divisor,
        pin_memory=device.type == "cuda",
    )
    for batch in with_progress(batches, sum(map(len, parts)), label, size=len):
        yield batch.to(device, non_blocking=True)


def _autocast(config: settings.Config, device: torch.device) -> torch.autocast:
    dtype = autocast_dtype(config.runtime, device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
