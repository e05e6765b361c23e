"""A dataset and lists of its keys → joined batches in order, prefetched by worker processes.

A `UserError` in a worker is raised again in the main process.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from detection.data.worker_pool import WorkerPool

Key = tuple[int, int]  # (epoch, position in the index)
Item = TypeVar("Item", covariant=True)
Joined = TypeVar("Joined")

PATIENCE = 1800.0  # seconds to wait for one batch; `runtime.timeout_minutes` in a configuration
_AHEAD = 2  # batches that each worker prefetches


class KeyedSamples(Protocol[Item]):
    """Samples, each a function of its key."""

    def __getitem__(self, key: Key) -> Item: ...

    def name(self, key: Key) -> str:
        """The sample's name in messages: its file."""
        ...


def joined_batches(
    samples: KeyedSamples[Item],
    parts: Sequence[list[Key]],
    join: Callable[[Sequence[Item]], Joined],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    patience: float = PATIENCE,
) -> Generator[Joined, None, None]:
    """Parts (lists of keys) → `join(samples of the part)` of each, in order. `samples`, `parts` and `join` must be
    picklable where processes are spawned.

    workers: processes; 0 reads in this one. patience: seconds to wait for a batch before an error. pin_memory: whether
    to call the batches' method of this name, which moves them into page-locked memory.

    Raises:
        UserError: any UserError of the samples; the workers cannot be started, one has died, or a batch takes too long.
    """
    make = _Batches(samples, parts, join)
    if not workers:
        for number in range(len(parts)):
            batch: Any = make(number)
            yield batch.pin_memory() if pin_memory else batch
        return
    pool = WorkerPool(
        make,
        len(parts),
        workers=min(workers, len(parts)),
        ahead=_AHEAD,
        patience=patience,
        describe=lambda number: [samples.name(key) for key in parts[number]],
    )
    with contextlib.closing(pool):
        yield from _pinned(pool) if pin_memory else pool.values()


@dataclass(frozen=True)
class _Batches:
    """Number of a part → the batch."""

    samples: KeyedSamples[Any]
    parts: Sequence[list[Key]]
    join: Callable[[Sequence[Any]], Any]

    def __call__(self, number: int) -> Any:
        return self.join([self.samples[key] for key in self.parts[number]])


def _pinned(pool: WorkerPool) -> Iterator[Any]:
    """The pool's values in page-locked memory. A thread of this process moves them there, a few in advance."""
    waiting: queue.Queue[Any] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    device = torch.cuda.current_device()

    def put(value: Any) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(value, timeout=0.1)
                return

    def pin() -> None:
        try:
            torch.cuda.set_device(device)
            for value in pool.values():
                if stopped.is_set():
                    return
                put(value.pin_memory())
            put(_Ended(None))
        except BaseException as error:  # raised again where the values are taken
            put(_Ended(error))

    thread = threading.Thread(target=pin, name="pin", daemon=True)
    thread.start()
    try:
        while not isinstance(value := waiting.get(), _Ended):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        stopped.set()
        pool.close()
        thread.join(5.0)


@dataclass
class _Ended:
    error: BaseException | None
