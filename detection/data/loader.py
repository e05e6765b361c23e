"""A dataset and a plan → batches in order, prefetched by worker processes (`workers.py`)."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Collection, Generator, Sequence

from detection.data.batch_plan import BatchPlan, TrainingSteps
from detection.data.batches import Batch, collate, padded_size
from detection.data.dataset import DetectionDataset
from detection.data.workers import PATIENCE, joined_batches

logger = logging.getLogger(__name__)

_INSTEAD = {"replace": "other images replaced them", "blank": "nothing is found in them"}


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
    patience: float = PATIENCE,
) -> Generator[Batch, None, None]:
    """This rank's micro-batches of steps first_step ≤ step < last_step: exactly `accumulation` of them for each step,
    in order.

    A start at a later step reads none of the earlier images. workers: processes; 0 reads in this one. patience: seconds
    to wait for a batch before an error. Images that were replaced (see `DetectionDataset`) are logged as warnings, each
    once; their number is logged after the last batch.

    Raises:
        UserError: an image or its proposals cannot be read, naming the file; the workers fail (`joined_batches`).
        ValueError: the global batch has fewer images than there are parts.
    """
    steps = TrainingSteps(plan, first_step, last_step, rank, world, accumulation)
    return loaded_batches(
        dataset, steps, workers=workers, size_divisor=size_divisor, pin_memory=pin_memory, patience=patience
    )


def evaluation_parts(
    dataset: DetectionDataset,
    *,
    rank: int = 0,
    world: int = 1,
    batch_size: int = 1,
    size_divisor: int = 1,
    only: Collection[int] | None = None,
) -> list[list[tuple[int, int]]]:
    """The (epoch 0, position in the index) pairs of each of this rank's batches: every image once over all ranks.

    Only images of one padded size, in each view, share a batch, so that an image's padding, and with it a network's
    output, is independent of the batch. Many batches are therefore smaller than the batch size. The composition of a
    batch is also independent of the number of ranks and of `only`, because a kernel may round differently in a batch of
    another size. A rank may have no batches.

    only: the positions still needed; batches without any of them are left out.
    """
    alike: dict[tuple[tuple[int, int], ...], list[tuple[int, int]]] = {}
    for i in range(len(dataset)):
        padded = tuple(padded_size(size, size_divisor) for size in dataset.sizes((0, i)))
        alike.setdefault(padded, []).append((0, i))
    parts = [
        group[start : start + batch_size] for group in alike.values() for start in range(0, len(group), batch_size)
    ]
    if only is not None:
        parts = [part for part in parts if any(i in only for _, i in part)]
    return parts[rank::world]


def loaded_batches(
    dataset: DetectionDataset,
    parts: Sequence[list[tuple[int, int]]],
    *,
    workers: int = 0,
    size_divisor: int = 1,
    pin_memory: bool = False,
    patience: float = PATIENCE,
) -> Generator[Batch, None, None]:
    """The batches of parts, such as `evaluation_parts`, in order. For the options see `training_batches`.

    Raises:
        UserError: an image or its proposals cannot be read, naming the file; the workers fail (`joined_batches`).
    """
    join = functools.partial(collate, size_divisor=size_divisor)
    batches = joined_batches(dataset, parts, join, workers=workers, pin_memory=pin_memory, patience=patience)
    unreadable: Counter[str] = Counter()
    try:
        with contextlib.closing(batches):
            for batch in batches:
                for _, problem in batch.problems:
                    if problem not in unreadable:
                        logger.warning("%s", problem)
                    unreadable[problem] += 1
                yield batch
    finally:  # also if training stops early or fails
        if unreadable:
            logger.warning(
                "%d image(s) could not be read, asked for %d time(s): %s",
                len(unreadable), unreadable.total(), _INSTEAD[dataset.unreadable],
            )  # fmt: skip
