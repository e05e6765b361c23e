"""Sends a batch from one process to another through a pipe, its tensors through shared memory.

Large tensors are stored in anonymous memory files (memfd). torch's loader uses files in `/dev/shm`, which containers
limit to 64 MB by default and which remain when a process is killed; memfd has neither problem. Where the system has no
memfd or refuses one, the tensors go through the pipe itself.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import pickle
import sys
from collections.abc import Sequence
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 16  # bytes; a tensor of at least this size goes through shared memory
_ALIGNMENT = 64
# A mapping needs no open file, but before Python 3.13 each mapping keeps one open.
_WITHOUT_FILE: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def send(pipe: Connection, value: Any) -> None:
    """Sends `value`, which must be picklable, with its tensors on the CPU. Their memory order is kept."""
    large: list[pickle.PickleBuffer] = []
    memory, ends = None, list[int]()
    body = _pickled(value, large)
    if large:
        memory, ends = _memory_file(large)
        if memory is None:
            body = _pickled(value, None)
    try:
        pipe.send_bytes(pickle.dumps((ends, [buffer.raw().nbytes for buffer in large] if ends else [])))
        pipe.send_bytes(body)
        if memory is not None:
            reduction.send_handle(pipe, memory, None)
    finally:
        if memory is not None:
            os.close(memory)


def receive(pipe: Connection) -> Any:
    """Receives the value that `send` sent. Its large tensors share one block of memory, freed with the last of them.

    Raises:
        EOFError, OSError: the other end was closed.
    """
    starts, sizes = pickle.loads(pipe.recv_bytes())
    body = pipe.recv_bytes()
    if not sizes:
        return pickle.loads(body)
    file = reduction.recv_handle(pipe)
    try:
        shared = memoryview(mmap.mmap(file, starts[-1] + sizes[-1], **_WITHOUT_FILE))
    finally:
        os.close(file)
    return pickle.loads(body, buffers=[shared[at : at + size] for at, size in zip(starts, sizes, strict=True)])


class _Pickler(pickle.Pickler):
    """Pickles tensors as byte buffers outside of the pickle (protocol 5)."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is not Tensor:
            return NotImplemented
        # From the outermost dimension in memory to the innermost: for channels-last images (N, H, W, C).
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        dense = value.detach().permute(order).contiguous()
        return _tensor, (
            pickle.PickleBuffer(dense.view(-1).view(torch.uint8).numpy().data),
            value.dtype,
            dense.shape,
            order,
        )


def _pickled(value: Any, large: list[pickle.PickleBuffer] | None) -> bytes:
    """The pickle of `value`. Its large buffers are appended to `large` instead of pickled, unless `large` is None."""

    def is_within(buffer: pickle.PickleBuffer) -> bool:
        if large is None or buffer.raw().nbytes < LARGE:
            return True
        large.append(buffer)
        return False

    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=is_within).dump(value)
    return file.getvalue()


def _tensor(buffer: Any, dtype: torch.dtype, shape: Sequence[int], order: Sequence[int]) -> Tensor:
    if memoryview(buffer).nbytes == 0:  # frombuffer refuses an empty buffer
        dense = torch.empty(tuple(shape), dtype=dtype)
    else:
        dense = torch.frombuffer(buffer, dtype=dtype).view(tuple(shape))
    return dense.permute(sorted(range(len(order)), key=lambda dimension: order[dimension]))


def _memory_file(buffers: Sequence[pickle.PickleBuffer]) -> tuple[int | None, list[int]]:
    """(the descriptor of a memory file with the buffers, where each begins); (None, []) if none can be made."""
    if not hasattr(os, "memfd_create"):
        return None, []
    try:
        file = os.memfd_create("batch")
    except OSError:  # too many open files, or a sandbox that forbids it
        return None, []
    try:
        starts, end = [], 0
        for buffer in buffers:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            os.lseek(file, start, os.SEEK_SET)
            _write(file, buffer.raw())
            starts.append(start)
            end = start + buffer.raw().nbytes
        return file, starts
    except OSError:  # too little memory; the pipe needs less at once
        with contextlib.suppress(OSError):
            os.close(file)
        return None, []


def _write(file: int, content: memoryview) -> None:
    """Writes all of `content`: one call of `os.write` takes at most 2 GiB. A copy into a mapping would end in SIGBUS
    where memory is short; a write raises an error."""
    while content:
        content = content[os.write(file, content) :]
