"""A batch in one process → the same batch in another, through a pipe: the tensors by shared memory.

Memory files without a name (memfd) hold large tensors. Unlike the files of `/dev/shm`, which torch's loader takes, no
container's default of 64 MB limits them, and nothing is left over when a process is killed. Where the system has none,
or gives none, the tensors go through the pipe itself.
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

LARGE = 1 << 16  # bytes from which a tensor goes by shared memory
_ALIGNMENT = 64
# A mapping needs no open file. Before Python 3.13 each keeps one all the same.
_WITHOUT_FILE: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


def send(pipe: Connection, value: Any) -> None:
    """Sends `value`: picklable, with tensors on the CPU, whose memory order is kept."""
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
    """What `send` sent. Large tensors lie in memory of their own, which is freed with the last of them.

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
    """Tensors as buffers of bytes, which protocol 5 lets travel beside the pickle."""

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
    """The pickle of `value`; its large buffers are not in it, but appended to `large`, unless that is None."""

    def is_within(buffer: pickle.PickleBuffer) -> bool:
        if large is None or buffer.raw().nbytes < LARGE:
            return True
        large.append(buffer)
        return False

    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=is_within).dump(value)
    return file.getvalue()


def _tensor(buffer: Any, dtype: torch.dtype, shape: Sequence[int], order: Sequence[int]) -> Tensor:
    if memoryview(buffer).nbytes == 0:  # which frombuffer does not take
        dense = torch.empty(tuple(shape), dtype=dtype)
    else:
        dense = torch.frombuffer(buffer, dtype=dtype).view(tuple(shape))
    return dense.permute(sorted(range(len(order)), key=lambda dimension: order[dimension]))


def _memory_file(buffers: Sequence[pickle.PickleBuffer]) -> tuple[int | None, list[int]]:
    """(the descriptor of a memory file with the buffers, where each begins); (None, []) where there can be none."""
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
    except OSError:  # no memory; the pipe needs less of it at once
        with contextlib.suppress(OSError):
            os.close(file)
        return None, []


def _write(file: int, content: memoryview) -> None:
    """All of it: one call of `os.write` takes at most 2 GiB. (Written, not copied into a mapping, so that a lack of
    memory is an error and no SIGBUS.)"""
    while content:
        content = content[os.write(file, content) :]
