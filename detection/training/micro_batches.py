"""The stream of a loader → the micro-batches of one step → the gradient of the step and the losses of each micro-batch.

Legend: N images of a micro-batch, W ranks, B the global batch.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError
from detection.training.distributed import world_size
from detection.training.memory import OutOfMemory, memory_explained
from detection.training.random_state import preserved_random_state


class TrainingBatch(Protocol):
    """The part of a batch that the training loop uses; the network uses the rest.

    A batch may also offer `halves()`, its images in two batches; a step that runs out of memory is then tried again.
    """

    image_ids: Tensor  # (N,)

    def __len__(self) -> int: ...

    def to(self, device: torch.device, non_blocking: bool = False) -> Any: ...


# The image ids (N,) of a micro-batch, and its losses (N,) by name.
Losses = tuple[Tensor, dict[str, Tensor]]


def stream_of(
    batches: Callable[[int], Iterable[TrainingBatch]], first_step: int
) -> Generator[TrainingBatch, None, None]:
    """The micro-batches from `first_step` on. Closing this generator closes the iterator of `batches`."""
    # A loader may draw a seed for its workers at its first batch. A resumed run opens one more loader than an
    # uninterrupted one, so that draw must not change the random state.
    with preserved_random_state():
        iterator = iter(batches(first_step))
        first = list(itertools.islice(iterator, 1))
    try:
        yield from first
        yield from iterator
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def next_parts(stream: Iterator[TrainingBatch], count: int, step: int) -> list[TrainingBatch]:
    """The next `count` micro-batches of a stream, those of one step.

    Raises:
        UserError: there are fewer.
    """
    parts = list(itertools.islice(stream, count))
    if len(parts) < count:
        raise UserError(f"the batches ended in step {step}: the loader was given fewer steps than the training call")
    return parts


def backward(
    network: nn.Module,
    parts: Sequence[TrainingBatch],
    *,
    device: torch.device,
    factor: float,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> list[Losses]:
    """Adds the gradient of `factor · sum of all losses` over the micro-batches `parts` to the parameters' gradients.

    `factor` is W / B, because DDP averages over ranks. Ranks exchange gradients only at the last micro-batch.

    Raises:
        OutOfMemory: an allocation failed; the gradients are then incomplete.
    """
    done: list[Losses] = []
    for number, part in enumerate(parts):
        with memory_explained(part), _exchange(network, number == len(parts) - 1):
            batch = part.to(device, non_blocking=True)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                losses: dict[str, Tensor] = network(batch)
            for name, loss in losses.items():
                if loss.shape != batch.image_ids.shape:
                    raise ValueError(
                        f'loss "{name}" must be one number an image, but has the shape {tuple(loss.shape)}'
                    )
            total = torch.stack([loss.float().sum() for loss in losses.values()]).sum() * factor
            (total if scaler is None else scaler.scale(total)).backward()
        done.append((batch.image_ids, {name: loss.detach() for name, loss in losses.items()}))
    return done


def backward_or_halve(
    step: Callable[[Sequence[TrainingBatch]], list[Losses]],
    parts: Sequence[TrainingBatch],
    optimizer: torch.optim.Optimizer,
    log: Callable[[str], None],
) -> list[Losses]:
    """Runs `step(parts)`; if it runs out of memory, runs it again on halved micro-batches, for the same gradient.

    With one process only: with several, the others would wait for this rank's first attempt.

    Raises:
        OutOfMemory: the halves do not fit either, or cannot be made.
    """
    try:
        return step(parts)
    except OutOfMemory as error:
        if world_size() > 1 or not all(hasattr(part, "halves") and len(part) > 1 for part in parts):
            raise
        log(f"{error} This step is done again in micro-batches of half the size.")
    # Outside the handler, in which the error would keep the tensors of the failed attempt alive.
    optimizer.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    return step([half for part in parts for half in part.halves()])  # type: ignore[attr-defined]


def _exchange(network: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[None]:
    if isinstance(network, nn.parallel.DistributedDataParallel) and not is_last:
        return network.no_sync()
    return contextlib.nullcontext()
