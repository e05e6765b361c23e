"""An output folder, or one file in it → a lock that lets at most one run write to it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backbones.common.errors import UserError
from backbones.common.locks import lock
from detection.training.distributed import is_main, on_main

logger = logging.getLogger(__name__)

_held: Counter[Path] = Counter()  # how many times this process holds each lock
_without_locks: set[Path] = set()  # folders for which the warning about missing locks was logged


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike[str], name: str = "run.lock") -> Iterator[None]:
    """Locks `folder` (created if missing) for the duration of the block; of several ranks, rank 0 holds the lock.

    A block within a block may lock the same folder again: `train` locks its folder, and a caller may hold the lock for
    longer. Where several runs may write into one folder, each its own file, each uses its own lock file `name`.

    The system releases the lock when the process ends for any reason, so a killed run leaves nothing to clean up. The
    workers of its loader, which may run for seconds longer, do not hold the lock (see `backbones.common.locks`). On a
    file system without locks a warning is logged once, and nothing is locked.

    Raises:
        UserError: another run holds the lock (its process and machine are named), or the folder cannot be written.
    """
    path = (Path(folder) / name).resolve()
    files: list[IO[bytes]] = []

    def take() -> None:
        if not _held[path]:
            files.append(_take(path))
        _held[path] += 1

    on_main(take)
    try:
        yield
    finally:
        _held[path] -= is_main()
        for file in files:
            file.close()


def _take(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+", buffering=0)  # noqa: SIM115 - it stays open as long as the lock is held
    except OSError as error:
        raise UserError(f"{path.parent} cannot be written: {error.strerror}. Choose another output folder.") from error
    try:
        is_ours = lock(file)
    except OSError as error:  # train without a lock rather than not at all
        is_ours = True
        if path.parent not in _without_locks:
            _without_locks.add(path.parent)
            logger.warning(
                "%s: this file system has no locks (%s): do not start a second run into this folder", path.parent, error
            )
    if not is_ours:
        with file:
            holder = _note_in(file)
        raise UserError(
            f"another run is writing into {path.parent} ({holder or 'unknown'} holds {path.name}): "
            "wait for it, stop it, or choose another output folder"
        )
    with contextlib.suppress(OSError):  # a full disk; the note is optional
        file.truncate(0)
        file.write(f"\nprocess {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _note_in(file: IO[bytes]) -> str:
    """The note of the run that holds the lock. The first byte, which Windows does not let others read, is skipped."""
    with contextlib.suppress(OSError):
        file.seek(1)
        return file.read().decode("utf-8", "replace").strip()
    return ""
