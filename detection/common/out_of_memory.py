"""An exception → whether it means that an allocation failed, in any library, and the message about it."""

from __future__ import annotations

import sys

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
    """Whether an allocation failed. PyTorch's GPU allocator, Python and NumPy have a class for it; PyTorch's CPU
    allocator and the GPU libraries raise a plain RuntimeError, and OpenCV its own error."""
    torch = sys.modules.get("torch")  # an error of PyTorch can only be raised where it is imported
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    is_one_of_theirs = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return is_one_of_theirs and any(words in str(error) for words in _WORDS)


def out_of_memory_message(error: BaseException) -> str:
    """The message about a failed allocation of which nothing else is known: the error's own text, and the remedy."""
    said = " ".join(str(error).split())[:300] or type(error).__name__
    return f"out of memory ({said}). {_REMEDY}"
