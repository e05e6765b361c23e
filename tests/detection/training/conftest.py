"""The toy network, importable here and in the processes that the tests start; those processes; a disk that fills up."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_processes import Session, fork_server, rank_environments


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """start(settings, **environment) → a Session. What still runs when the test ends is killed."""
    import toy_run

    sessions: list[Session] = []

    def start_one(settings: toy_run.Settings, **environment: str) -> Session:
        stderr_file = tmp_path / f"stderr_{len(sessions)}.txt"
        process = fork_server().Process(target=toy_run.process, args=(settings, environment, str(stderr_file)))
        process.start()
        sessions.append(Session(process, stderr_file))
        return sessions[-1]

    yield start_one
    for session in sessions:
        if session.process.is_alive():
            session.process.kill()
        session.process.join()


@pytest.fixture
def start_ranks(start: Callable[..., Session]) -> Callable[..., list[Session]]:
    """start_ranks(settings, world) → one Session a rank, with the environment that torchrun would set."""

    def start_all(settings: object, world: int = 2) -> list[Session]:
        return [start(settings, **environment) for environment in rank_environments(world)]

    return start_all


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB of its own (a tmpfs); needs the right to mount one."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    command = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk could not be mounted here (not root?), so nothing was tried on a full one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
