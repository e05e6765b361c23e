"""Several processes as one run: joining torchrun's group, exchanging small values, and errors that name the rank.

Without torchrun every function here works for the one process there is: rank 0 of 1. With it, each process joins by the
environment that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT): over gloo on a CPU, over NCCL
on GPUs. Every exchange has a time limit.
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

# gloo and NCCL raise plain RuntimeErrors; these words of theirs tell them from others.
_EXCHANGE_ERRORS = ("gloo", "Gloo", "NCCL", "ProcessGroup", "TCPStore", "pair closure", "by peer", "Broken pipe")
_PROGRESS_KEY, _FAILURE_KEY, _DEVICE_KEY = (f"detection/{what}/{{rank}}" for what in ("progress", "failure", "device"))
_store: dist.Store | None = None  # the group's key-value store; holds how far each rank has come, for error messages
_notes = 0  # how many notes on its progress this rank has left
# Keeps gloo's object alive until the process ends: taking it apart joins a thread that may be waiting for the
# interpreter's lock, which whoever lets go of the last reference (an error's frames, say) holds: PyTorch 2.10 hangs.
_group: dist.ProcessGroup | None = None


class DistributedError(UserError):
    """An exchange between ranks failed or took longer than its time limit; the message names the ranks."""


def rank() -> int:
    """This process's number, 0 … world_size − 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks (rank 0)."""
    return rank() == 0


def was_restarted() -> bool:
    """Whether torchrun has restarted this group (`--max-restarts`): the run then continues without being asked to.

    Every rank calls this: of several machines, only the agent of the one that failed counts its restarts.
    """
    return any(count != "0" for count in gather_objects(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))


@contextlib.contextmanager
def process_group(device: str = "auto", *, time_limit: float = 600.0) -> Iterator[torch.device]:
    """Joins torchrun's group for the length of the block and yields the device of this process.

    Args:
        device: "auto" (CUDA where there is a GPU, otherwise the CPU), "cpu", "cuda" (the GPU of this process's
            LOCAL_RANK), or one GPU by its number ("cuda:1").
        time_limit: seconds that any exchange, and the joining itself, may take. It must be above the longest time that
            one rank may keep the others waiting (writing a checkpoint, an evaluation).

    Raises:
        DistributedError: the group does not come together within the time limit.
        UserError: CUDA is asked for and missing, or this machine has fewer GPUs than processes; some ranks have a GPU
            and some not; what torchrun should have left in the environment is no number.
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
            # torchrun on one machine keeps its store over restarts, and with it the addresses of processes that are
            # gone. (On several it opens a new one, and their counts may differ.)
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
    except DistributedError:  # another rank's failure, which that one tells of
        raise
    except BaseException as error:
        _report_failure(error)
        raise
    finally:
        _store = None
        # NCCL's end waits for every rank: after an error of one alone, for ever, and its message would never be seen.
        if ended_well or chosen.type != "cuda":
            dist.destroy_process_group()


def _require_one_kind_of_device(store: dist.Store, device: str, this_rank: int, world: int) -> None:
    """The exchanges of a CPU and those of a GPU would wait for each other in vain."""
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
        UserError: it is a GPU, and PyTorch sees none.
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
    """Waits until every rank has come here."""
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
    """A row of numbers (C,) from every rank → one list for each rank, on every rank. Waits for the device."""
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
    """Gives every rank rank 0's buffers, such as the running statistics of batch normalisation, as the next step would.

    Each rank keeps its own between two steps, while a checkpoint holds rank 0's: what is measured in between is then
    the network that is saved.
    """
    if world_size() == 1:
        return
    shared = broadcast_object({name: buffer.cpu() for name, buffer in network.named_buffers()})
    for name, buffer in network.named_buffers():
        buffer.copy_(shared[name])


def on_main(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 alone and returns its result on every rank.

    A UserError there is raised on every rank, so that none waits for the others.
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
    """Leaves a note on how far this rank has come, which the others quote if an exchange fails. Costs microseconds.

    Every rank leaves the same notes in the same order: whoever has left fewer is behind.
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
    """Turns a failed or overdue exchange in the block into a DistributedError: which rank has failed and with what
    message; or else which one is behind, and how far each had come."""
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
    """How far each rank has come, and which of them to look at."""
    notes = [_note(_PROGRESS_KEY.format(rank=other)) for other in range(world_size())]
    if all(note is None for note in notes):
        return "Look at the output of the rank that is gone; rank 0's, if the notes on their progress went with it."
    parts = [(note or "0 not begun").split(" ", 1) for note in notes]
    most = max(int(count) for count, _ in parts)
    behind = ", ".join(f"rank {other}" for other, (count, _) in enumerate(parts) if int(count) < most)
    told = ", ".join(f"rank {other}: {text}" for other, (_, text) in enumerate(parts))
    return (f"Behind the others, or gone: {behind}. " if behind else "") + f"How far each rank had come: {told}."


def _note(key: str) -> str | None:
    """What a rank has left in the store; None if it has not, or the store went with the process that kept it."""
    try:
        return _store.get(key).decode() if _store is not None and _store.check([key]) else None
    except RuntimeError:
        return None


def _first_line(error: BaseException) -> str:
    """What an exchange's error says, without the place in the library's source and its advice."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"\[\S*\.cc:\d+\] ", "", line).split(". ")[0].rstrip(".")
