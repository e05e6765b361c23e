"""Files that are either whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError

try:
    import fcntl
except ImportError:  # Windows: what a killed process left there stays
    fcntl = None  # type: ignore[assignment]


class CannotWrite(UserError, OSError):
    """A file cannot be written: no space, no permission, a read-only disk. Whoever expects an OSError gets one."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path that a person named: `~` and `~name` at its beginning are home folders, as shells have it where they get
    to see it (`--output=~/x` and a configuration's values they pass on as they are)."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such home folder
        return Path(path)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there replaces `path` in one step when the block ends.

    The content reaches the disk before the name does (fsync of the file, then of its folder), so that even a power cut
    leaves the old file or the new one, never a part. If the block raises, the temporary file is removed and `path`
    stays as it was. If the process is killed the temporary file stays, until `path` is written again.

    Raises:
        CannotWrite: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = _temporary_file(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        # The file was made private; give it the permissions that an ordinary open() would have given.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk shows in a write, which names no file; an error that names another file is not about this one.
        if isinstance(error, OSError) and error.filename in (None, str(temporary), str(path.parent)):
            raise _cannot_write(path, error) from error
        raise
    finally:
        os.close(descriptor)


def _temporary_file(path: Path) -> tuple[int, Path]:
    """An empty file beside `path` for this writer alone: (its descriptor, to be closed at the end; its path).

    Its name is always the same, so that the next writer of `path` takes over what a killed one left. A lock on it says
    that its writer lives; another writer at the same time gets a file of a name of its own.
    """
    if fcntl is not None:
        usual = path.with_name(f".{path.name}.tmp")
        with contextlib.suppress(OSError):  # locked, somebody else's, a link, or a file system without locks
            descriptor = os.open(usual, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if _is_ours(descriptor, usual):
                os.truncate(descriptor, 0)
                return descriptor, usual
            os.close(descriptor)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    return descriptor, Path(name)


def _is_ours(descriptor: int, path: Path) -> bool:
    """Whether the file, which now is locked, was free, and is still the one at `path`: a writer that has just ended
    may have renamed or removed it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    reason = error.strerror or error
    return CannotWrite(f"{path} cannot be written: {reason}. Free space or choose another output folder.")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
