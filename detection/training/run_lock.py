"""An output folder, or a file being made → at most one run writing it."""

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

_held: Counter[Path] = Counter()  # how often this process holds each
_without_locks: set[Path] = set()  # folders of which was said that their file system has no locks


@contextlib.contextmanager
def run_lock(folder: str | os.PathLike[str], name: str = "run.lock") -> Iterator[None]:
    """Holds `folder` (made if missing) for the length of the block; of several ranks, rank 0 holds it for all.

    A block within a block may hold the same folder again: `train` holds its own, and a caller may hold it for longer.
    Where several may write into one folder, each a file of its own, `name` is the lock's file of one of them.

    The system frees the lock when the process ends, whatever ends it, so a killed run leaves nothing to clean up; nor
    do its loader's workers, which may outlive it by seconds, keep a restarted run out (see `backbones.common.locks`).
    On a file system without locks a warning says so, once, and nothing is held.

    Raises:
        UserError: another run holds the folder (its process and machine are named), or the folder cannot be written.
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
    except OSError as error:  # better no protection than no training
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
    with contextlib.suppress(OSError):  # a full disk; the note is a courtesy
        file.truncate(0)
        file.write(f"\nprocess {os.getpid()} on {socket.gethostname()}\n".encode())
    return file


def _note_in(file: IO[bytes]) -> str:
    """Who wrote the note; the first byte, which Windows keeps from others while the file is locked, is left out."""
    with contextlib.suppress(OSError):
        file.seek(1)
        return file.read().decode("utf-8", "replace").strip()
    return ""
