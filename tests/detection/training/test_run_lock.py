"""The lock on an output folder: one run at a time, told by its process; nothing stays in the way of the next."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backbones.common import locks
from backbones.common.errors import UserError
from detection.training.run_lock import run_lock

HOLDER = """
import os, sys, time
from detection.training.run_lock import run_lock
with run_lock(sys.argv[1]):
    if os.fork() == 0:  # as a loader's worker
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_killed_while_its_forked_child_lives_frees_the_folder(tmp_path: Path, repository: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another run is writing") as caught, run_lock(tmp_path):
            pass
        assert f"process {process.pid} on {socket.gethostname()} holds run.lock" in str(caught.value)
        process.kill()
        process.wait()
        began = time.monotonic()
        with run_lock(tmp_path), run_lock(tmp_path):
            pass
        assert time.monotonic() - began < 5
        os.killpg(process.pid, 0)  # the child lives on
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_the_holder_is_told_to_everyone_who_asks(tmp_path: Path, repository: Path) -> None:
    """Asking leaves the note as it is, and a new holder's takes the place of an old one's."""
    with run_lock(tmp_path):
        pass
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE,
                               start_new_session=True)  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        for _ in range(2):
            with pytest.raises(UserError, match=f"process {process.pid} on"), run_lock(tmp_path):
                pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_block_within_a_block_holds_on(tmp_path: Path, repository: Path) -> None:
    program = "import sys; from detection.training.run_lock import run_lock\nwith run_lock(sys.argv[1]): pass"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with run_lock(tmp_path):
        with run_lock(tmp_path):
            pass
        assert b"another run is writing" in subprocess.run(command, cwd=repository, capture_output=True).stderr
    assert subprocess.run(command, cwd=repository, capture_output=True).returncode == 0


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
