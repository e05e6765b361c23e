"""A dataset and a plan → batches in order, made ahead of need by worker processes.

What a worker cannot read is raised here as the same `UserError`, its message alone. Workers leave signals to the main
process, so that an interrupt ends in a checkpoint and not in a heap of tracebacks.
"""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from detection.data.batch_plan import BatchPlan, share
from detection.data.batches import Batch, Sample, collate
from detection.data.dataset import DetectionDataset
from detection.errors import UserError

logger = logging.getLogger(__name__)


def training_batches(
    dataset: DetectionDataset,
    plan: BatchPlan,
    *,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    workers: int = 0,
    size_divisor: int = 1,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """This rank's micro-batches of steps first_step ≤ step < last_step: exactly `accumulation` of them for each step,
    in order.

    Starting in the middle reads none of the earlier pictures. workers: processes; 0 reads in this one. prefetch:
    batches ahead for each worker. Pictures that were replaced (see `DetectionDataset`) are logged as warnings.

    Raises:
        UserError: a picture or its proposals cannot be read, naming the file.
        ValueError: the global batch has fewer pictures than there are parts.
    """
    steps = _TrainingSteps(plan, first_step, last_step, rank, world, accumulation)
    return _batches(dataset, steps, workers, size_divisor, pin_memory, prefetch)


def evaluation_batches(
    dataset: DetectionDataset,
    *,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 1,
    workers: int = 0,
    size_divisor: int = 1,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """This rank's pictures, each once, as of epoch 0: rank, rank + world, … of the index.

    Wide ones come first, which saves padding. The last batch may be smaller; a rank may have none.

    Raises:
        UserError: a picture or its proposals cannot be read, naming the file.
    """
    indices = np.arange(rank, len(dataset), world)
    indices = indices[np.argsort(dataset.index.aspect_ratios[indices] < 1, kind="stable")]
    parts = [[(0, int(i)) for i in indices[start : start + batch_size]] for start in range(0, len(indices), batch_size)]
    return _batches(dataset, parts, workers, size_divisor, pin_memory, prefetch)


class _TrainingSteps(Sequence[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each micro-batch, worked out when asked for."""

    def __init__(
        self, plan: BatchPlan, first_step: int, last_step: int, rank: int, world: int, accumulation: int
    ) -> None:
        share(np.arange(plan.batch_size), rank, world, accumulation)  # raises now rather than in the first step
        self.plan, self.first_step, self.last_step = plan, first_step, last_step
        self.rank, self.world, self.accumulation = rank, world, accumulation

    def __len__(self) -> int:
        return max(0, self.last_step - self.first_step) * self.accumulation

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        step, part = divmod(number, self.accumulation)
        epochs, indices = self.plan[self.first_step + step]
        columns = (
            share(column, self.rank, self.world, self.accumulation)[part].tolist() for column in (epochs, indices)
        )
        return list(zip(*columns, strict=True))


class _Guarded(Dataset[Any]):
    """The dataset with `UserError`s as values: raised in a worker, they would come out wrapped in a traceback."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Sample | UserError:
        try:
            return self.dataset[key]
        except UserError as error:
            return error


def _collate(items: Sequence[Sample | UserError], size_divisor: int) -> Batch | UserError:
    samples = []
    for item in items:
        if isinstance(item, UserError):
            return item
        samples.append(item)
    return collate(samples, size_divisor)


def _batches(
    dataset: DetectionDataset,
    parts: Sequence[list[tuple[int, int]]],
    workers: int,
    size_divisor: int,
    pin_memory: bool,
    prefetch: int,
) -> Iterator[Batch]:
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=parts,
        collate_fn=functools.partial(_collate, size_divisor=size_divisor),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # without one of its own the loader would draw from torch's global generator
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        for _, problem in batch.problems:
            logger.warning("%s", problem)
        yield batch


def _prepare_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker; the workers are the parallelism
    for name in ("SIGINT", "SIGUSR1"):  # Windows has no SIGUSR1
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(signal_number: int, _: FrameType | None) -> None:
    """Lets the first SIGTERM pass, the one sent to the whole process group; the main process sends its own."""
    signal.signal(signal_number, signal.SIG_DFL)
