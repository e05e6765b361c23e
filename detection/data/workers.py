"""A dataset and lists of its keys → joined batches in order, made ahead of need by worker processes.

What a worker cannot read is raised here as the same `UserError`, its message alone.
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

PATIENCE = 1800.0  # seconds that one batch may be waited for; `runtime.timeout_minutes` in a configuration


class KeyedSamples(Protocol[Item]):
    """Samples, each a function of its key."""

    def __getitem__(self, key: Key) -> Item: ...

    def name(self, key: Key) -> str:
        """What messages call the sample: its file."""
        ...


def joined_batches(
    samples: KeyedSamples[Item],
    parts: Sequence[list[Key]],
    join: Callable[[Sequence[Item]], Joined],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    prefetch: int = 2,
    patience: float = PATIENCE,
) -> Generator[Joined, None, None]:
    """`join` of the samples of each part, in order. `samples`, `parts` and `join` must be picklable where processes are
    spawned.

    workers: processes; 0 reads in this one. prefetch: batches ahead for each worker. patience: seconds that a batch may
    be waited for. pin_memory: the batches, which then have a method of this name, are put into page-locked memory.

    Raises:
        UserError: whatever the samples raise; the workers cannot be started, one has died, or a batch takes too long.
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
        ahead=prefetch,
        patience=patience,
        describe=lambda number: [samples.name(key) for key in parts[number]],
    )
    with contextlib.closing(pool):
        yield from _pinned(pool, prefetch) if pin_memory else pool.values()


@dataclass(frozen=True)
class _Batches:
    """Number of a part → the batch."""

    samples: KeyedSamples[Any]
    parts: Sequence[list[Key]]
    join: Callable[[Sequence[Any]], Any]

    def __call__(self, number: int) -> Any:
        return self.join([self.samples[key] for key in self.parts[number]])


def _pinned(pool: WorkerPool, ahead: int) -> Iterator[Any]:
    """The pool's values in page-locked memory, where a thread of this process puts up to `ahead` of them before they
    are taken."""
    waiting: queue.Queue[Any] = queue.Queue(ahead)
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
