"""The memory use of a run, and a failed allocation → an error that says what to lower."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from detection.common.out_of_memory import is_out_of_memory

_MEBIBYTE = 1 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers for them, malloc.h
_ACCUMULATE = "Raise the accumulation, so that a micro-batch holds fewer images; or lower the image size."


class OutOfMemory(UserError):
    """An allocation failed; the message names the micro-batch and what to lower."""


def memory_in_use(device: torch.device) -> float:
    """Memory in MiB: on a GPU the peak of the tensors so far, on a CPU what the process holds now; without /proc its
    peak, and 0 on Windows, which tells neither."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MEBIBYTE
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / _MEBIBYTE
    except (OSError, ValueError, IndexError):  # no /proc outside Linux
        try:
            import resource
        except ModuleNotFoundError:  # on Windows
            return 0.0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MEBIBYTE  # in bytes on macOS


def keep_freed_memory() -> None:
    """Makes the C library keep large blocks of freed tensors for the next tensors, instead of returning them.

    glibc maps a block above 32 MiB anew each time, and the system clears its pages on first access, which takes up to a
    quarter of a training step on a CPU. In its first steps a process may keep a few more blocks than it uses at once.
    With other C libraries this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):  # no C library, or one without mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 1 << 30)
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


@contextlib.contextmanager
def memory_explained(batch: Any, remedy: str = _ACCUMULATE, ids: str = "image ids") -> Iterator[None]:
    """Turns a failed allocation in the block, which computes on `batch`, into an OutOfMemory error.

    `ids`: what the numbers in `batch.image_ids` are.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        images = getattr(batch, "images", None)
        size = f" of {images.shape[-2]} × {images.shape[-1]} pixels" if isinstance(images, torch.Tensor) else ""
        raise OutOfMemory(
            f"out of memory on a micro-batch of {len(batch)} image(s){size} ({ids} {batch.image_ids.tolist()}). "
            f"{remedy} PyTorch says: {str(error).splitlines()[0]}"
        ) from error
