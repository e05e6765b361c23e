"""Whether an error says that an allocation failed; each library says so in its own way."""

from __future__ import annotations

import torch

_WORDS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "Insufficient memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: PyTorch's allocator of a GPU has a class for it; a CPU's, and the libraries on a
    GPU, raise plain RuntimeErrors, and OpenCV an error of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    is_one_of_theirs = isinstance(error, RuntimeError) or type(error).__module__ == "cv2"
    return is_one_of_theirs and any(words in str(error) for words in _WORDS)
