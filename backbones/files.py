"""Files that are either whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


class CannotWrite(UserError, OSError):
    """A file cannot be written: no space, no permission, a read-only disk. Whoever expects an OSError gets one."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there replaces `path` in one step when the block ends.

    The content reaches the disk before the name does (fsync of the file, then of its folder), so that even a power cut
    leaves the old file or the new one, never a part. If the block raises, the temporary file is removed and `path`
    stays as it was.

    Raises:
        CannotWrite: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; give it the permissions that an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk shows in a write, which names no file; an error that names another file is not about this one.
        if isinstance(error, OSError) and error.filename in (None, name, str(path.parent)):
            raise _cannot_write(path, error) from error
        raise


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    reason = error.strerror or error
    return CannotWrite(f"{path} cannot be written: {reason}. Free space or choose another output folder.")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
