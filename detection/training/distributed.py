"""Several processes as one run: join the group of torchrun, exchange small values, and raise errors that name the rank.

Without torchrun every function here works for a single process, rank 0 of 1. With it, each process joins through the
environment variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT): over gloo on a CPU,
over NCCL on GPUs. Every exchange has a time limit.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from backbones.common.errors import UserError
from detection.common.environment import environment_number
from detection.training.memory import keep_freed_memory

T = TypeVar("T")

# gloo and NCCL raise plain RuntimeErrors; these words in their messages distinguish them from others.
_EXCHANGE_ERRORS = ("gloo", "Gloo", "NCCL", "ProcessGroup", "TCPStore", "pair closure", "by peer", "Broken pipe")
_PROGRESS_KEY, _FAILURE_KEY, _DEVICE_KEY = (f"detection/{what}/{{rank}}" for what in ("progress", "failure", "device"))
_store: dist.Store | None = None  # the group's key-value store; holds the progress of each rank, for error messages
_notes = 0  # how many progress notes this rank has written
# Keeps gloo's object alive until the process ends. Its destructor joins a thread that may be waiting for the
# interpreter's lock, and the code that drops the last reference (the frames of an error, for example) holds that lock:
# PyTorch 2.10 hangs.
_group: dist.ProcessGroup | None = None


class DistributedError(UserError):
    """An exchange between ranks failed or took longer than its time limit; the message names the ranks."""


def rank() -> int:
    """The number of this process, 0 … world_size − 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes in the group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is rank 0, which writes files and prints messages."""
    return rank() == 0


def was_restarted() -> bool:
    """Whether torchrun has restarted this group (`--max-restarts`), in which case the run resumes without --resume.

    Every rank calls this: with several machines, only the agent of the failed machine counts the restart.
    """
    return any(count != "0" for count in gather_objects(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


@contextlib.contextmanager
def process_group(device: str = "auto", *, time_limit: float = 600.0) -> Iterator[torch.device]:
    """Joins torchrun's group for the duration of the block and yields the device of this process.

    Args:
        device: "auto" (CUDA where there is a GPU, otherwise the CPU), "cpu", "cuda" (the GPU of this process's
            LOCAL_RANK), or one GPU by its number ("cuda:1").
        time_limit: seconds that any exchange, and joining the group, may take. It must be longer than one rank may keep
            the others waiting (for a checkpoint or an evaluation).

    Raises:
        DistributedError: the group is not complete within the time limit.
        UserError: CUDA is requested but not available; this machine has fewer GPUs than processes; only some ranks have
            a GPU; an environment variable of torchrun is not a number.
    """
    global _store, _group, _notes
    world, this_rank = environment_number("WORLD_SIZE", 1), environment_number("RANK", 0)
    chosen = _choose_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    if world == 1:
        yield chosen
        return
    limit = timedelta(seconds=time_limit)
    try:
        _store, _, _ = next(iter(dist.rendezvous("env://", timeout=limit)))
        if os.environ.get("GROUP_WORLD_SIZE") == "1":
            # On one machine torchrun keeps its store over restarts, and with it the addresses of processes that have
            # ended. (On several machines it opens a new store, and their restart counts may differ.)
            _store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store)
        _require_one_kind_of_device(_store, chosen.type, this_rank, world)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", store=_store, rank=this_rank, world_size=world, timeout=limit
        )
        _group = dist.group.WORLD
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"rank {this_rank} of {world} on {socket.gethostname()} could not join the others "
            f"(time limit {time_limit:g} s) at {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}: "
            f"{_first_line(error)}. "
            "Start every process by torchrun, with the same --nnodes and --rdzv-endpoint on each machine."
        ) from error
    ended_well, _notes = False, 0
    try:
        yield chosen
        ended_well = True
    except DistributedError:  # another rank failed, and reports it
        raise
    except BaseException as error:
        _report_failure(error)
        raise
    finally:
        _store = None
        # NCCL waits here for every rank. After an error on one rank it would wait for ever, and the error would never
        # be shown.
        if ended_well or chosen.type != "cuda":
            dist.destroy_process_group()


def _require_one_kind_of_device(store: dist.Store, device: str, this_rank: int, world: int) -> None:
    """Raises a UserError if some ranks use a CPU and others a GPU: their exchanges would block each other."""
    store.set(_DEVICE_KEY.format(rank=this_rank), device)
    devices = [store.get(_DEVICE_KEY.format(rank=other)).decode() for other in range(world)]
    for other, theirs in enumerate(devices):
        if theirs != devices[0]:
            raise UserError(
                f"rank 0 computes on {devices[0]} and rank {other} on {theirs}: give every rank the same "
                "(runtime.device=cpu where not each has a GPU)"
            )


def named_device(name: str) -> torch.device:
    """The device of this name; "auto" is a GPU where there is one.

    Raises:
        UserError: it is a GPU, and PyTorch finds none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f'device "{name}" was asked for, but PyTorch sees no GPU here: use "cpu", or install PyTorch with CUDA'
        )
    return device


def _choose_device(name: str) -> torch.device:
    device = named_device(name)
    if device.type != "cuda":
        return device
    number = device.index if device.index is not None else environment_number("LOCAL_RANK", 0)
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number} of this machine has no GPU of its own: PyTorch sees {torch.cuda.device_count()}. "
            "Lower --nproc-per-node."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def barrier() -> None:
    """Waits until every rank has called this."""
    if world_size() > 1:
        report_progress("waiting for each other")
        with explained("waiting for each other"):
            dist.barrier()


def gather_objects(value: T) -> list[T]:
    """`value` of every rank, in rank order, on every rank (picklable values between our own processes)."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    report_progress("gathering values")
    with explained("gathering values"):
        dist.all_gather_object(gathered, value)
    return gathered


def gather_numbers(numbers: torch.Tensor) -> list[list[float]]:
    """A tensor of numbers (C,) on every rank → one list for each rank, on every rank. Waits for the device."""
    if world_size() == 1:
        return [numbers.tolist()]
    rows = [torch.empty_like(numbers) for _ in range(world_size())]
    with explained("gathering figures"):
        dist.all_gather(rows, numbers)
    return cast("list[list[float]]", torch.stack(rows).tolist())


def maximum_over_ranks(number: torch.Tensor) -> None:
    """Replaces `number` () by the largest of all ranks' without waiting for the device."""
    if world_size() > 1:
        with explained("comparing a flag"):
            dist.all_reduce(number, op=dist.ReduceOp.MAX)


def broadcast_object(value: T) -> T:
    """Rank 0's `value`, on every rank."""
    if world_size() == 1:
        return value
    holder: list[Any] = [value]
    report_progress("sending from rank 0")
    with explained("sending from rank 0"):
        dist.broadcast_object_list(holder, src=0)
    return cast(T, holder[0])


def share_buffers(network: torch.nn.Module) -> None:
    """Copies rank 0's buffers, such as the running statistics of batch normalisation, to every rank, as the next step
    would do.

    Between two steps each rank has its own, while a checkpoint holds rank 0's: an evaluation then measures the network
    that is saved.
    """
    if world_size() == 1:
        return
    shared = broadcast_object({name: buffer.cpu() for name, buffer in network.named_buffers()})
    for name, buffer in network.named_buffers():
        buffer.copy_(shared[name])


def on_main(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 alone and returns its result on every rank.

    A UserError on rank 0 is raised on every rank, so that no rank waits for the others.
    """
    if world_size() == 1:
        return action()
    result: T | None = None
    failure: UserError | None = None
    if is_main():
        try:
            result = action()
        except UserError as error:
            failure = error
    message, result = broadcast_object((None if failure is None else str(failure), result))
    if message is not None:
        raise failure or UserError(message)
    return cast(T, result)


def report_progress(text: str) -> None:
    """Stores the progress of this rank as `text`, which the other ranks quote if an exchange fails. Takes microseconds.

    Every rank stores the same notes in the same order: a rank that has stored fewer is behind.
    """
    global _notes
    if _store is not None:
        _notes += 1
        with contextlib.suppress(RuntimeError):
            _store.set(_PROGRESS_KEY.format(rank=rank()), f"{_notes} {text}")


def _report_failure(error: BaseException) -> None:
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__} {error}".strip()
    if _store is not None:
        with contextlib.suppress(RuntimeError):
            _store.set(_FAILURE_KEY.format(rank=rank()), text)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns a failed or timed-out exchange in the block into a DistributedError, which names the rank that failed and
    its message, or otherwise the ranks that are behind and the progress of each."""
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not _is_exchange_failure(error):
            raise
        here = f"rank {rank()} of {world_size()} on {socket.gethostname()}"
        for other in range(world_size()):
            failure = _note(_FAILURE_KEY.format(rank=other))
            if failure is not None:
                raise DistributedError(f"{here} ends because rank {other} has failed: {failure}") from error
        raise DistributedError(f"{here}: {what} failed: {_first_line(error)}. {_progress()}") from error


def _is_exchange_failure(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return any(mark in str(error) for mark in _EXCHANGE_ERRORS)


def _progress() -> str:
    """The progress of each rank, and the ranks that are behind, as text."""
    notes = [_note(_PROGRESS_KEY.format(rank=other)) for other in range(world_size())]
    if all(note is None for note in notes):
        return "Look at the output of the rank that is gone; rank 0's, if the notes on their progress went with it."
    parts = [(note or "0 not begun").split(" ", 1) for note in notes]
    most = max(int(count) for count, _ in parts)
    behind = ", ".join(f"rank {other}" for other, (count, _) in enumerate(parts) if int(count) < most)
    told = ", ".join(f"rank {other}: {text}" for other, (_, text) in enumerate(parts))
    return (f"Behind the others, or gone: {behind}. " if behind else "") + f"How far each rank had come: {told}."


def _note(key: str) -> str | None:
    """The value of a key in the store; None if it is not set, or if the process that kept the store has ended."""
    try:
        return _store.get(key).decode() if _store is not None and _store.check([key]) else None
    except RuntimeError:
        return None


def _first_line(error: BaseException) -> str:
    """The message of an exchange's error, without the position in the library's source and the advice that follows."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"\[\S*\.cc:\d+\] ", "", line).split(". ")[0].rstrip(".")
