"""Locks an open file for one process, until it closes the file or ends for any reason.

The lock is filelock's on an open descriptor: flock, and LockFileEx on Windows. The lock belongs to the open file, so a
file that one process opens twice can be locked only once. A forked child inherits open files and would keep the lock of
a killed parent (a loader's worker lives some seconds longer). Children therefore close locked files directly after the
fork; the parent keeps the lock.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import IO

from filelock import lock_descriptor

_locked: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def lock(file: IO[bytes], *, wait: bool = False) -> bool:
    """Locks an open file; closing the file releases the lock.

    On Windows, no other process can then read or write the file's first byte.

    Args:
        file: open and unbuffered (`buffering=0`), so that a forked child can close it without writing anything.
        wait: wait until the holder of the lock releases it.

    Returns:
        Whether the file is now locked; False only if another process holds the lock and `wait` is False.

    Raises:
        OSError: the file system has no locks.
    """
    _locked.add(file)  # before it is locked, so that a child forked in between closes it, too
    return lock_descriptor(file.fileno(), blocking=wait)


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether the file at `path` is this open file: the previous holder of the lock may have renamed or removed it."""
    try:
        status = path.stat()  # called once: between two calls the file may be renamed
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), status)


def close_before_renaming(file: IO[bytes]) -> None:
    """Closes the file on Windows, which cannot rename or remove open files. Elsewhere it stays open and locked until it
    has its new name."""
    if os.name == "nt":
        file.close()


def _close_in_child() -> None:
    for file in list(_locked):
        file.close()
    _locked.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_close_in_child)
