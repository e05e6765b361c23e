"""Capture and restore the random generators that a step may use: those of PyTorch (CPU and CUDA), NumPy (the global
one) and Python."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def capture_random_state() -> dict[str, Any]:
    """The state of all generators of this process, as tensors and plain values (what `weights_only=True` loads)."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached_gauss),
        ),
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Sets the generators to a state from `capture_random_state`; a process without CUDA ignores the CUDA part."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, position, has_gauss, cached_gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached_gauss))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the state of the generators after the block, so that its random draws have no effect on later ones."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)
