"""A trained network and images → detections or proposals. The `Detector`, the tools and the evaluation during a
training all use these functions.

`prepare_inference` folds the batch normalisation of a network and moves it to its device. `detect_batch` and
`propose_batch` process one batch, `detect` and `propose` a whole split, which is divided among the ranks.
Shapes: N images, R proposals, D detections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from backbones.common.progress import with_progress
from detection import config as settings
from detection.data.augmentation import Augmentation
from detection.data.batches import Batch, Sample, collate, padded_size
from detection.data.dataset import DetectionDataset, augmented_sample
from detection.data.index import DatasetIndex
from detection.data.loader import evaluation_parts, loaded_batches
from detection.data.workers import PATIENCE
from detection.evaluation.average_precision import AveragePrecision, average_precision
from detection.evaluation.coco_parameters import limit_for
from detection.evaluation.recall import ProposalRecall, RecallAccumulator
from detection.experiment.ground_truth_loading import ground_truth_of
from detection.experiment.precision_trial import measure_inference
from detection.experiment.resizes import test_augmentation, test_views
from detection.networks.detections import Detections
from detection.networks.faster_rcnn import FasterRCNN, View, to_original
from detection.networks.rpn import RPN
from detection.training.distributed import gather_objects, on_main, rank, report_progress, world_size
from detection.training.low_precision import convert
from detection.training.memory import memory_explained
from detection.training.placement import for_inference
from detection.training.precision import (
    AS_CONFIGURED,
    Precision,
    described,
    fingerprint,
    is_small,
    remembered,
    stated_precision,
)

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

LESS_MEMORY = "Lower runtime.test_batch, or the image size (data.test_shorter_side, data.test_longer_side)."


@dataclass(frozen=True)
class Inference(Generic[Network]):
    """A network ready for inference, and the settings for its input. It is not changed by use; several threads may
    share it.

    Attributes:
        network: on its device, in evaluation mode.
        resize: the resize to the size that the network was trained for.
        size_divisor: padded sides are multiples of this.
        autocast: the type of half precision; None computes in float32, or in that of the network's own weights.
        batch_size: images at once when a whole split is processed.
        workers: processes that read the images of a split; 0 reads them in this process.
        patience: seconds to wait for a batch of the images of a split.
        views: test-time augmentation: resizes to further sizes, in which a detector also detects.
        flip: test-time augmentation: the detector also detects in each image flipped horizontally, at each size.
        precision: what the network computes in, and why.
    """

    network: Network
    resize: Augmentation
    size_divisor: int = 32
    autocast: torch.dtype | None = None
    batch_size: int = 1
    workers: int = 0
    patience: float = PATIENCE
    views: tuple[Augmentation, ...] = ()
    flip: bool = False
    precision: Precision = AS_CONFIGURED

    @classmethod
    def configured(cls, network: Network, config: settings.Config) -> Inference[Network]:
        """An `Inference` with the network unchanged on its device, and the image size, precision, batch size and
        workers of the configuration."""
        data, runtime = config.data, config.runtime
        device = next(network.parameters()).device
        stated = stated_precision(runtime, device) or Precision("fp32", "auto chooses for trained networks alone")
        resize = test_augmentation(data)
        return cls(
            network.eval(),
            resize,
            data.size_divisor,
            stated.dtype,
            runtime.test_batch,
            runtime.workers,
            60 * runtime.timeout_minutes,
            test_views(data),
            data.test_flip,
            stated,
        )

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    @contextlib.contextmanager
    def computing(self, batch: Batch, remedy: str, ids: str) -> Iterator[Batch]:
        """Context without gradients and in the configured precision; yields the batch on the device. A failed
        allocation is raised as an error with the batch's size and `remedy`, see `memory_explained`."""
        with (
            memory_explained(batch, remedy, ids),
            torch.inference_mode(),
            torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
        ):
            yield batch.to(self.device, non_blocking=True)


def prepare_inference(
    network: Network, config: settings.Config, device: torch.device, *, choose: bool = False
) -> Inference[Network]:
    """An `Inference` of a copy of the network on the device, with batch normalisation folded (see `for_inference`).

    On a CPU, bf16 weights are converted once (`low_precision.convert`).

    choose: `runtime.precision: auto` takes the faster precision on a CPU; otherwise auto is fp32. Every rank calls
        this.
    """
    inference = Inference.configured(for_inference(network, config.runtime, device), config)
    if choose and stated_precision(config.runtime, device) is None:
        inference = dataclasses.replace(inference, precision=on_main(lambda: _choose(inference, config.runtime)))
        on_main(lambda: logger.info("runtime.precision=auto: %s", inference.precision))
    if device.type == "cpu" and inference.precision.dtype is not None:
        convert(inference.network, inference.precision.dtype)
        inference = dataclasses.replace(inference, autocast=None)
    return inference


def _choose(inference: Inference[Any], runtime: settings.Runtime) -> Precision:
    """The faster precision on this machine for images of the configured size, 3 high by 4 wide."""
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
    (batch,) = batch_images(inference, [image] * inference.batch_size, inference.batch_size)
    height, width = batch.images.shape[2:]
    small = is_small(inference.network, height, width)
    if small is not None:
        return small
    about = described(
        inference.network,
        "inference",
        runtime,
        image=list(batch.images.shape),
        weights=fingerprint(inference.network),
    )
    return remembered(about, lambda: measure_inference(inference.network, batch))


def batch_images(inference: Inference[Network], images: Iterable[np.ndarray], batch_size: int) -> Iterator[Batch]:
    """Images uint8 (H, W, 3) in RGB order → batches in their order, `image_ids` counting from 0.

    Only images of the same padded size, in each view, share a batch, at most `batch_size` of them, so that the result
    for an image does not depend on the others.
    """
    waiting: list[Sample] = []
    for number, image in enumerate(images):
        sample = augmented_sample(image, inference.resize, image_id=number, index=number, views=inference.views)
        if waiting and (len(waiting) >= batch_size or _padded(inference, sample) != _padded(inference, waiting[0])):
            yield collate(waiting, inference.size_divisor)
            waiting = []
        waiting.append(sample)
    if waiting:
        yield collate(waiting, inference.size_divisor)


def detect_batch(
    inference: Inference[FasterRCNN], batch: Batch, remedy: str = LESS_MEMORY, ids: str = "image ids"
) -> list[Detections]:
    """The detections in each image of a batch, on the CPU, boxes in pixels of the original image.

    Raises:
        UserError: out of memory; the message contains `remedy`, and `ids` names the kind of the batch's image ids.
    """
    with inference.computing(batch, remedy, ids) as batch:
        if views := views_of(inference, batch):
            found = inference.network.detect_in_views(views, batch.original_sizes)
        else:
            found = inference.network(batch.images, batch.sizes, batch.original_sizes)
    return [one.on_cpu() for one in found]


def propose_batch(
    inference: Inference[RPN], batch: Batch, limits: settings.ProposalLimits
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The proposals in each image of a batch: boxes float32 (R, 4) within the original image, in its pixels, and scores
    (R,) descending. Raises the errors of `detect_batch`."""
    with inference.computing(batch, LESS_MEMORY, "image ids") as batch:
        found = inference.network.propose(
            batch.images,
            batch.sizes,
            before_nms=limits.before_nms,
            after_nms=limits.after_nms,
            nms_iou=limits.nms_iou,
            min_sides=limits.min_side * batch.sizes / batch.original_sizes,
        )
        original = batch.original_sizes.flip(1).repeat(1, 2).unsqueeze(1)  # (N, 1, 4): width, height, width, height
        boxes = to_original(found.boxes, batch.sizes, batch.original_sizes).clamp(min=0).minimum(original)
    return [
        (own[:count], scores[:count])
        for own, scores, count in zip(
            boxes.cpu().numpy(), found.scores.cpu().numpy(), found.counts.tolist(), strict=True
        )
    ]


def detect(inference: Inference[FasterRCNN], index: DatasetIndex) -> np.ndarray:
    """Detections (D, 7) in all images of a split: image_id, x, y, width, height, score, category_id; by image id.

    An image that cannot be read has no detections, and a warning is logged. All ranks get all detections.
    """
    rows = [np.empty((0, 7))]
    for batch in batches_of_split(inference, index, f"detecting on {index.name}", views=inference.views):
        unreadable = {image_id for image_id, _ in batch.problems}
        for image_id, found in zip(batch.image_ids.tolist(), detect_batch(inference, batch), strict=True):
            if image_id in unreadable:
                continue
            rows.append(as_rows(found, image_id, index))
    return gather_rows(rows)


def as_rows(found: Detections, image_id: int, index: DatasetIndex) -> np.ndarray:
    """The detections in one image, on the CPU, as rows (D, 7): image_id, x, y, width, height, score, category_id."""
    x0, y0, x1, y1 = found.boxes.double().numpy().T
    category_ids, scores = index.category_ids[found.labels.numpy() - 1], found.scores.double().numpy()
    return np.stack([np.full(len(x0), image_id), x0, y0, x1 - x0, y1 - y0, scores, category_ids], axis=1)


def gather_rows(rows: list[np.ndarray]) -> np.ndarray:
    """The rows (D, 7) of all ranks, by image id. Every rank calls this."""
    together = np.concatenate([part for parts in gather_objects(rows) for part in parts])
    return together[np.argsort(together[:, 0], kind="stable")]


def propose(
    inference: Inference[RPN],
    index: DatasetIndex,
    limits: settings.ProposalLimits,
    *,
    pending: Collection[int] | None = None,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(image id, boxes (R, 4) in the original image, scores (R,) descending) of this rank's share of a split.

    An image that cannot be read has no proposals, and a warning is logged.

    pending: ids of the images to process (None: all). With a batch size above 1 the other images of their batches are
    processed too.
    """
    only = None if pending is None else set(np.flatnonzero(np.isin(index.image_ids, list(pending))).tolist())
    for batch in batches_of_split(inference, index, f"proposing on {index.name}", only):
        unreadable = {image_id for image_id, _ in batch.problems}
        found = propose_batch(inference, batch, limits)
        for image_id, (boxes, scores) in zip(batch.image_ids.tolist(), found, strict=True):
            count = 0 if image_id in unreadable else len(boxes)
            yield image_id, boxes[:count], scores[:count]


def average_precision_of(inference: Inference[FasterRCNN], index: DatasetIndex) -> tuple[AveragePrecision, np.ndarray]:
    """The COCO figures of a detector on a split, and its detections, the same on every rank. See `limit_for`."""
    detections = detect(inference, index)
    limit = limit_for(inference.network.detections)
    figures = on_main(lambda: average_precision(ground_truth_of(index), detections, limit=limit))
    return figures, detections


def proposal_recall_of(
    inference: Inference[RPN], index: DatasetIndex, limits: settings.ProposalLimits
) -> ProposalRecall:
    """The recall of an RPN on a split, at up to 2,000 proposals an image (instead of those in `limits`), the same on
    every rank."""
    limits = dataclasses.replace(limits, after_nms=2000, before_nms=None)
    proposals = propose(inference, index, limits)
    return recall_of(index, ((image_id, boxes) for image_id, boxes, _ in proposals))


def recall_of(index: DatasetIndex, proposals: Iterable[tuple[int, np.ndarray]]) -> ProposalRecall:
    """The recall of (image id, boxes (R, 4) in the original image, best first); each rank passes its own images."""
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


def views_of(inference: Inference[FasterRCNN], batch: Batch) -> list[View]:
    """The views of test-time augmentation, the images at each size and, with `flip`, mirrored; none without it."""
    if not batch.views and not inference.flip:
        return []
    sizes = [(batch.images, batch.sizes), *batch.views]
    sides = (False, True) if inference.flip else (False,)
    return [View(*images, is_mirrored=mirrored) for images in sizes for mirrored in sides]


def _padded(inference: Inference[Network], sample: Sample) -> list[tuple[int, int]]:
    """The padded size of the image, and of each of its views."""
    images = (image.shape[1:] for image in (sample.image, *sample.views))
    return [padded_size((height, width), inference.size_divisor) for height, width in images]


def batches_of_split(
    inference: Inference[Network],
    index: DatasetIndex,
    label: str,
    only: Collection[int] | None = None,
    views: Sequence[Augmentation] = (),
) -> Iterator[Batch]:
    """This rank's images of a split, resized and batched, with a progress line."""
    report_progress(label)
    dataset = DetectionDataset(index, inference.resize, unreadable="blank", views=views)
    parts = evaluation_parts(
        dataset,
        rank=rank(),
        world=world_size(),
        batch_size=inference.batch_size,
        size_divisor=inference.size_divisor,
        only=only,
    )
    batches = loaded_batches(
        dataset,
        parts,
        workers=inference.workers,
        size_divisor=inference.size_divisor,
        pin_memory=inference.device.type == "cuda",
        patience=inference.patience,
    )
    return with_progress(batches, sum(map(len, parts)), label, size=len)
