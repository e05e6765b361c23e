"""Labelled images → training batches, each sample a function of (seed, epoch, index), and test batches.

Shapes: M images of the split, N images of a batch, V views of all images of a batch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backbones.classification.labelled_images import LabelledImages
from backbones.classification.random_view import RandomView
from backbones.classification.views import Views, stack_views
from backbones.common.errors import UserError
from detection import config as settings
from detection.common.seeds import hash63
from detection.data.batch_plan import BatchPlan, TrainingSteps
from detection.data.batches import MovableBatch
from detection.data.images import ImageError
from detection.data.workers import joined_batches
from detection.training.distributed import rank, world_size
from detection.training.recipe import accumulation_steps

logger = logging.getLogger(__name__)

_ATTEMPTS = 10  # images in a row that may be unreadable


@dataclass
class LabelledBatch(MovableBatch):
    """images uint8 RGB (N, 3, H, W) in channels-last memory, labels int64 (N,), image_ids int64 (N,): positions in the
    split (0 … M − 1)."""

    labels: Tensor
    image_ids: Tensor


@dataclass(frozen=True)
class ViewBatch:
    """views: as `stack_views` gives them, owners being positions in this batch; labels int64 (N,)."""

    views: list[tuple[Tensor, Tensor]]
    labels: Tensor


@dataclass(frozen=True)
class TrainingSamples:
    """(epoch, i) → (image (size, size, 3), label, i).

    With `skip_unreadable`, an image that cannot be read is replaced by another, determined by (seed, epoch, i), and a
    warning names it.
    """

    images: LabelledImages
    view: RandomView
    seed: int
    skip_unreadable: bool = False

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, int, int]:
        """Raises UserError, naming the image, where it cannot be used."""
        epoch, wanted = key
        i, image = self._read(epoch, wanted)
        with _name_image_in_errors(self.images, i):
            view = self.view(image, hash63(self.seed, epoch, wanted))
        return view, int(self.images.labels[i]), i

    def name(self, key: tuple[int, int]) -> str:
        """The image's file."""
        return self.images.name(key[1])

    def _read(self, epoch: int, wanted: int) -> tuple[int, np.ndarray]:
        i = wanted
        for attempt in range(_ATTEMPTS):
            try:
                return i, self.images.read(i)
            except ImageError as error:
                if not self.skip_unreadable or attempt == _ATTEMPTS - 1:
                    raise
                logger.warning("%s; another image replaces it", error)
                i = hash63(self.seed, epoch, wanted, attempt) % len(self.images)
        raise AssertionError("the last attempt raises")


@dataclass(frozen=True)
class TestSamples:
    """(epoch, which is ignored; i) → (views, label)."""

    __test__ = False  # for pytest

    images: LabelledImages
    views: Views

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[np.ndarray], int]:
        """Raises UserError, naming the image, where it cannot be used."""
        image = self.images.read(key[1])
        with _name_image_in_errors(self.images, key[1]):
            views = self.views(image)
        return views, int(self.images.labels[key[1]])

    def name(self, key: tuple[int, int]) -> str:
        """The image's file."""
        return self.images.name(key[1])


def training_batches_for(
    samples: TrainingSamples, training: settings.Training, runtime: settings.Runtime, device: torch.device
) -> Callable[[int], Iterator[LabelledBatch]]:
    """First step → this rank's micro-batches from there to the end of the training."""
    plan = BatchPlan(np.ones(len(samples.images)), training.global_batch, samples.seed, group_by_aspect=False)
    accumulation = accumulation_steps(training, world_size())

    def batches(first_step: int) -> Iterator[LabelledBatch]:
        steps = TrainingSteps(plan, first_step, training.steps, rank(), world_size(), accumulation)
        return joined_batches(
            samples,
            steps,
            _labelled_batch,
            workers=runtime.workers,
            pin_memory=device.type == "cuda",
            patience=60 * runtime.timeout_minutes,
        )

    return batches


def evaluation_batches_for(
    images: LabelledImages, indices: np.ndarray, views: Views, runtime: settings.Runtime
) -> Iterator[ViewBatch]:
    """The images `indices` in batches: this rank's share, every `world_size()`th batch.

    The composition of a batch is independent of the number of ranks, and so are the scores.
    """
    keys = [(0, int(i)) for i in indices]
    parts = [keys[start : start + runtime.test_batch] for start in range(0, len(keys), runtime.test_batch)]
    share = parts[rank() :: world_size()]
    samples, patience = TestSamples(images, views), 60 * runtime.timeout_minutes
    return joined_batches(samples, share, _view_batch, workers=runtime.workers, patience=patience)


def _labelled_batch(samples: Sequence[tuple[np.ndarray, int, int]]) -> LabelledBatch:
    images, labels, ids = zip(*samples, strict=True)
    return LabelledBatch(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels), torch.tensor(ids)
    )


def _view_batch(samples: Sequence[tuple[list[np.ndarray], int]]) -> ViewBatch:
    views, labels = zip(*samples, strict=True)
    return ViewBatch(stack_views(views), torch.tensor(labels))


@contextlib.contextmanager
def _name_image_in_errors(images: LabelledImages, i: int) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{images.name(i)}: {error}") from error
