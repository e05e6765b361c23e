"""A dataset and lists of its keys → joined batches in order, made ahead of need by worker processes.

What a worker cannot read is raised here as the same `UserError`, its message alone. Workers leave signals to the main
process, so that an interrupt ends in a checkpoint and not in a heap of tracebacks.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, Protocol, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from backbones.common.errors import UserError

Key = tuple[int, int]  # (epoch, position in the index)
Item = TypeVar("Item", covariant=True)
Joined = TypeVar("Joined")


class KeyedSamples(Protocol[Item]):
    """Samples, each a function of its key."""

    def __getitem__(self, key: Key) -> Item: ...


def joined_batches(
    samples: KeyedSamples[Item],
    parts: Sequence[list[Key]],
    join: Callable[[Sequence[Item]], Joined],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Joined]:
    """`join` of the samples of each part, in order. `samples` and `join` must be picklable where processes are spawned.

    workers: processes; 0 reads in this one. prefetch: batches ahead for each worker.

    Raises:
        UserError: whatever the samples raise.
    """
    loader = DataLoader(
        _Guarded(samples),
        batch_sampler=parts,
        collate_fn=functools.partial(_join, join=join),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # without one of its own the loader would draw from torch's global generator
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


class _Guarded(Dataset[Any]):
    """The samples with `UserError`s as values: raised in a worker, they would come out wrapped in a traceback."""

    def __init__(self, samples: KeyedSamples[Any]) -> None:
        self.samples = samples

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.samples[key]
        except UserError as error:
            return error


def _join(items: Sequence[Any], join: Callable[[Sequence[Any]], Any]) -> Any:
    return next((item for item in items if isinstance(item, UserError)), None) or join(items)


def _prepare_worker(_: int) -> None:
    cv2.setNumThreads(0)  # one thread a worker; the workers are the parallelism
    for name in ("SIGINT", "SIGUSR1"):  # Windows has no SIGUSR1
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _ignore_once)


def _ignore_once(signal_number: int, _: FrameType | None) -> None:
    """Lets the first SIGTERM pass, the one sent to the whole process group; the main process sends its own."""
    signal.signal(signal_number, signal.SIG_DFL)
