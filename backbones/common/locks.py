"""An open file → locked for one process, until it closes the file or ends, whatever ends it.

The lock is filelock's on an open descriptor: flock, and LockFileEx on Windows. It belongs to the open file, so two that
are opened by the same process exclude each other too. A forked child inherits open files and would keep the lock of a
killed parent alive (a loader's worker lives on for some seconds): children therefore close locked files as soon as they
are forked, which leaves the lock to the parent.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

_locked: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Locks an open file for whoever opened it; closing it gives the lock up.

    On Windows nobody else can then read or write the file's first byte.

    Args:
        file: open and unbuffered (`buffering=0`), so that a forked child can close it without writing anything.
        wait: wait until whoever holds the lock gives it up.

    Returns:
        Whether it is locked; False only where another holds it and `wait` is False.

    Raises:
        OSError: the file system has no locks.
    """
    _locked.add(file)  # before it is locked: a child that is forked in between must close it too
    return lock_descriptor(file.fileno(), blocking=wait)


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the file at `path` is this open one: whoever held the lock before may have renamed or removed it."""
    try:
        status = path.stat()  # asked once: between two questions it may be renamed
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), status)


def close_before_renaming(file: IO[bytes]) -> None:
    """Closes the file where the system renames and removes no open one (Windows). Elsewhere it stays open, and with it
    the lock, until it has its new name."""
    if os.name == "nt":
        file.close()


def _close_in_child() -> None:
    for file in list(_locked):
        file.close()
    _locked.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_close_in_child)
