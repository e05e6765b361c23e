"""The lock on an output folder: one run at a time, told by its process; nothing stays in the way of the next."""

from __future__ import annotations

import contextlib
import errno
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from backbones.common import locks
from backbones.common.errors import UserError
from detection.training.run_lock import run_lock
from tests.detection.ranks import forked


@contextlib.contextmanager
def held(folder: Path) -> Iterator[BaseProcess]:
    """A process that holds the folder's lock and has a forked child, as a loader's worker is one."""
    receiver, sender = multiprocessing.Pipe()

    def hold() -> None:
        os.setsid()
        with run_lock(folder):
            if os.fork() > 0:
                sender.send("held")
            time.sleep(60)

    process = forked(hold)
    try:
        assert receiver.recv() == "held"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()


def test_a_run_killed_while_its_forked_child_lives_frees_the_folder(tmp_path: Path) -> None:
    with held(tmp_path) as process:
        with pytest.raises(UserError, match="another run is writing") as caught, run_lock(tmp_path):
            pass
        assert f"process {process.pid} on {socket.gethostname()} holds run.lock" in str(caught.value)
        process.kill()
        process.join()
        began = time.monotonic()
        with run_lock(tmp_path), run_lock(tmp_path):
            pass
        assert time.monotonic() - began < 20  # the sleeping child has a minute to live
        os.killpg(process.pid, 0)  # the child lives on


def test_the_holder_is_told_to_everyone_who_asks(tmp_path: Path) -> None:
    """Asking leaves the note as it is, and a new holder's takes the place of an old one's."""
    with run_lock(tmp_path):
        pass
    with held(tmp_path) as process:
        for _ in range(2):
            with pytest.raises(UserError, match=f"process {process.pid} on"), run_lock(tmp_path):
                pass


def test_a_block_within_a_block_holds_on(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()

    def try_twice() -> None:
        for _ in range(2):
            theirs.recv()
            try:
                with run_lock(tmp_path):
                    theirs.send("it was free")
            except UserError as error:
                theirs.send(str(error))

    process = forked(try_twice)  # before this process holds the lock
    with run_lock(tmp_path):
        with run_lock(tmp_path):
            pass
        ours.send("try")
        assert "another run is writing" in ours.recv()
    ours.send("try")
    assert ours.recv() == "it was free"
    process.join(60)


def test_a_file_system_without_locks_still_trains_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with run_lock(tmp_path / "run"), run_lock(tmp_path / "run"):
                pass
    [message] = caplog.messages
    assert str(tmp_path / "run") in message
    assert "has no locks" in message
