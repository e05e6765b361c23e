"""A lock holds as long as its process lives and no longer, whatever children that process has forked."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from backbones.common import locks
from backbones.common.files import atomic_write
from backbones.common.locks import is_at, lock


def opened(path: Path) -> IO[bytes]:
    return open(path, "ab+", buffering=0)


def test_one_at_a_time_until_the_file_is_closed(tmp_path: Path) -> None:
    with opened(tmp_path / "x") as first, opened(tmp_path / "x") as second, opened(tmp_path / "y") as other:
        assert lock(first)
        assert not lock(second)
        assert lock(other)
        first.close()
        assert lock(second)


def test_waiting_ends_when_the_lock_is_given_up(tmp_path: Path) -> None:
    with opened(tmp_path / "x") as first, opened(tmp_path / "x") as second:
        assert lock(first)
        got = threading.Event()

        def wait() -> None:
            assert lock(second, wait=True)
            got.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.3)
        first.close()
        assert got.wait(10)
        thread.join()


def test_the_file_of_a_name_is_told_from_one_of_the_past(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with opened(path) as file:
        assert is_at(path, file)
        path.unlink()
        assert not is_at(path, file)
        path.write_text("another")
        assert not is_at(path, file)


HOLDER = """
import os, sys, time
from pathlib import Path
from backbones.common.files import atomic_write
from backbones.common.locks import lock
from backbones.weights.partial_file import claimed
path = Path(sys.argv[1])
file = open(path / "lock", "ab+", buffering=0)
with claimed(path / "weights.partial") as partial, atomic_write(path / "x.txt") as temporary:
    assert lock(file)
    if os.fork() == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    if os.fork() == 0:  # a child that ends before its parent must not end the parent's lock
        os._exit(0 if file.closed and partial.closed else 1)
    assert os.wait()[1] == 0
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_forked_child_neither_keeps_nor_gives_up_its_parents_locks(tmp_path: Path, repository: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        held = [tmp_path / name for name in ("lock", "weights.partial", ".x.txt.tmp")]
        for path in held:
            with opened(path) as file:
                assert not lock(file)
        process.kill()
        process.wait()
        began = time.monotonic()
        for path in held:
            with opened(path) as file:
                assert lock(file, wait=True)
        assert time.monotonic() - began < 20  # the sleeping child has a minute to live
        os.killpg(process.pid, 0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_files_are_written_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    for text in ("first", "second"):
        with atomic_write(tmp_path / "x.txt") as temporary:
            temporary.write_text(text)
        assert (tmp_path / "x.txt").read_text() == text
    monkeypatch.undo()
    with atomic_write(tmp_path / "x.txt") as temporary:  # takes over the empty file that could not be locked
        temporary.write_text("third")
    assert os.listdir(tmp_path) == ["x.txt"]
