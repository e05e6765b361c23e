"""Batches through a pipe: the same tensors in the same memory order, by shared memory or without."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import threading
from typing import Any

import numpy as np
import pytest
import torch

from detection.data import batch_pipe

CHANNELS_LAST = torch.randint(0, 255, (4, 80, 134, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
VALUES: dict[str, Any] = {
    "a large image in channels-last memory": CHANNELS_LAST,
    "one image in channels-last memory": CHANNELS_LAST[:1],
    "large and transposed": torch.arange(100_000.0).view(100, 1000).t(),
    "large, of every other column": torch.ones(300, 600, dtype=torch.bfloat16)[:, ::2],
    "small": torch.arange(7, dtype=torch.int64).view(7, 1),
    "of truth values": torch.tensor([True, False]),
    "without numbers": torch.empty(0, 4),
    "one number": torch.tensor(3.5),
    "expanded": torch.ones(1, 5).expand(3, 5),
    "several, large and small": [CHANNELS_LAST, torch.tensor(1), {"boxes": torch.rand(20_000, 4)}, "text", None],
    "an array": np.arange(50_000),
}


def through_pipe(value: Any) -> Any:
    receiver, sender = multiprocessing.Pipe()
    thread = threading.Thread(target=batch_pipe.send, args=(sender, value))
    thread.start()
    received = batch_pipe.receive(receiver)
    thread.join()
    return received


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    elif isinstance(one, (list, dict)):
        for a, b in zip(*(v.values() if isinstance(v, dict) else v for v in (one, other)), strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.fixture(params=["by a memory file", "without memfd_create", "too many open files", "no memory"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the large tensors go."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    def give_half(file: int, content: memoryview) -> None:
        os.write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    if request.param == "without memfd_create":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    elif request.param == "too many open files":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    elif request.param == "no memory":
        monkeypatch.setattr(batch_pipe, "_write", give_half)
    return request.param


def memory_files() -> int:
    """How many files without a name this process has open. (Other threads of a test session open others.)"""
    files = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed since it was listed
            files += os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")
    return files


@pytest.mark.parametrize("name", VALUES)
def test_what_is_sent_is_received(name: str, way: str) -> None:
    before = memory_files()
    received = through_pipe(VALUES[name])
    assert_same(received, VALUES[name])
    del received
    assert memory_files() == before


@pytest.mark.parametrize("name", ["a large image in channels-last memory", "large and transposed", "small"])
def test_the_memory_order_is_kept_and_the_tensor_may_be_written_to(name: str, way: str) -> None:
    received = through_pipe(VALUES[name])
    assert received.stride() == VALUES[name].stride()
    received += 1
    assert torch.equal(received, VALUES[name] + 1)


def test_a_pipe_whose_other_end_is_gone() -> None:
    receiver, sender = multiprocessing.Pipe()
    sender.close()
    with pytest.raises((EOFError, OSError)):
        batch_pipe.receive(receiver)
