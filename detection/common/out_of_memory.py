"""Whether an error says that an allocation failed, each library says so in its own way; and what to tell about it."""

from __future__ import annotations

import torch

_WORDS = (
    "can't allocate memory",  # PyTorch's allocator of a CPU
    "not enough memory",  # the same on Windows
    "out of memory",
    "ALLOC_FAILED",  # the libraries on a GPU
    "Insufficient memory",  # OpenCV
    "bad allocation",
    "bad_alloc",
    "Storage size calculation overflowed",  # more than 2^63 bytes
    "multiplication overflow",
)
_REMEDY = (
    "Lower what is held at once: the sides of images and the images at once, by the configuration's data and training; "
    "runtime.workers; or the network (backbone, rpn.channels)."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch's allocator of a GPU has a class for it, and so have Python and NumPy; a
    CPU's, and the libraries on a GPU, raise plain RuntimeErrors, and OpenCV an error of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    is_one_of_theirs = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return is_one_of_theirs and any(words in str(error) for words in _WORDS)


def out_of_memory_message(error: BaseException) -> str:
    """What to tell of an allocation that failed where nothing more is known of it: what asked for it, and the
    remedy."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return f"out of memory ({said}). {_REMEDY}"
