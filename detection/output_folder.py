"""The folder that `predict` writes to: one process at a time, and a distinct name for each input."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite
from backbones.common.locks import is_at, lock

_LOCK = ".predict.lock"


@contextlib.contextmanager
def lock_folder(output: Path) -> Iterator[None]:
    """Locks the folder, which is created if missing, for one `predict` at a time; deletes the lock file at the end."""
    path = output / _LOCK
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path)
    except OSError as error:
        raise CannotWrite(f"{output} cannot be written: {error.strerror or error}. Name another output.") from error
    if file is None:
        raise UserError(
            f"{output}: another process is writing its detections there; wait for it, or name another output"
        )
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows cannot delete an open file
            path.unlink()
        file.close()


def _open_locked(path: Path) -> IO[bytes] | None:
    """The open file, created if missing and locked; None if another process holds the lock."""
    while True:
        file = open(path, "ab", buffering=0)  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            is_ours = lock(file)
        except OSError:  # a file system without locks: run without a lock rather than not at all
            return file
        if is_ours and is_at(path, file):
            return file
        file.close()
        if not is_ours:
            return None


def distinct_names(stems: Sequence[str], ending: str) -> list[str]:
    """A name in the output folder for each input: its own, with a number where two inputs share one."""
    taken: set[str] = set()
    names = []
    for stem in stems:
        name, number = f"{stem}{ending}", 1
        while _as_on_disk(name) in taken:
            number += 1
            name = f"{stem}_{number}{ending}"
        taken.add(_as_on_disk(name))
        names.append(name)
    return names


def _as_on_disk(name: str) -> str:
    """A key that is the same for names that some file system treats as equal: Windows ignores case, macOS also Unicode
    normal forms."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def identity(path: Path) -> tuple[int, int]:
    """A key that is the same for all paths of a file, also through links and on file systems that ignore case."""
    status = path.stat()
    return status.st_dev, status.st_ino
