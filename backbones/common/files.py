"""Writes files atomically, checks them before they are opened, and hashes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import UserError
from .locks import close_before_renaming, is_at, lock

_CHUNK = 1 << 20  # bytes read at a time


class CannotWrite(UserError, OSError):
    """A file cannot be written: no space, no permission, a read-only disk. It is also an OSError."""


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content: 64 lower-case hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return sha256_of_stream(file)


def sha256_of_stream(file: IO[bytes], length: int = sys.maxsize) -> str:
    """The SHA-256 of what an open file has left, or of its next `length` bytes. Raises OSError."""
    digest = hashlib.sha256()
    while chunk := file.read(min(_CHUNK, length)):
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest()


def require_plain_file(path: str | os.PathLike[str]) -> os.stat_result:
    """Checks, before `path` is opened, that it is a regular file, and returns its status.

    Reading a pipe without a writer would block for ever, and a device such as /dev/zero has no end.

    Raises:
        UserError: it is a directory, a pipe, a socket or a device.
        OSError: there is no such file, or its status cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise UserError(f"{os.fspath(path)} is {kind}, not a file; name an ordinary file")
    return status


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path given by a user, with `~` or `~name` at its beginning replaced by the home folder. Shells do so, but not
    within `--output=~/x` or a configuration's values."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such home folder
        return Path(path)


def cache_folder() -> Path:
    """The folder of downloads, and of what took long to compute. RESNEXT_CACHE names it; else it lies below
    XDG_CACHE_HOME, or ~/.cache.

    Raises:
        UserError: there is no home folder, and RESNEXT_CACHE is not set.
    """
    if named := os.environ.get("RESNEXT_CACHE"):
        return user_path(named)
    try:
        return user_path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnext_detection"
    except RuntimeError as error:
        raise UserError("there is no home folder to keep weights in; name a folder in RESNEXT_CACHE") from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, ending: str = ".tmp") -> Iterator[Path]:
    """Yields a temporary path beside `path`; the file written there replaces `path` atomically when the block ends.

    The content reaches the disk before the name does (fsync of the file, then of its folder), so that even a power cut
    leaves the old file or the new one, never a part. If the block raises, the temporary file is removed and `path`
    stays as it was. If the process is killed, the temporary file stays until `path` is written again.

    ending: of the temporary path, for a writer that chooses a format by it.

    Raises:
        CannotWrite: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, temporary = _temporary_file(path, ending)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        # The file was created private; give it the permissions of a file created by open().
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        _flush_to_disk(temporary)
        close_before_renaming(file)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException as error:
        close_before_renaming(file)
        temporary.unlink(missing_ok=True)
        # The error of a full disk names no file; an error that names another file is not about this one.
        if isinstance(error, OSError) and error.filename in (None, str(temporary), str(path.parent)):
            raise _cannot_write(path, error) from error
        raise
    finally:
        file.close()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text as UTF-8 by `atomic_write`, and raises its errors."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any, indent: int | None = 2) -> None:
    """Writes plain values as JSON in ASCII, which ends in a new line, by `atomic_write`, and raises its errors."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file, it cannot be read, or it holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _temporary_file(path: Path, ending: str) -> tuple[IO[bytes], Path]:
    """An empty file beside `path` for this writer alone: (the file, to be closed at the end; its path).

    Its name is always the same, so that the next writer of `path` reuses the file of a killed one. A lock on it shows
    that its writer is alive; a second writer at the same time gets a file of another name.
    """
    if hasattr(os, "O_NOFOLLOW"):  # not on Windows, where a locked file cannot be opened again for writing
        usual = path.with_name(f".{path.name}{ending}")
        with contextlib.suppress(OSError):  # another user's file, a link, or a file system without locks
            file = os.fdopen(os.open(usual, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "rb+", buffering=0)
            try:
                if lock(file) and is_at(usual, file):
                    file.truncate(0)
                    return file, usual
            except OSError:
                file.close()
                raise
            file.close()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=ending, dir=path.parent)
    return os.fdopen(descriptor, "rb+", buffering=0), Path(name)


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    reason = error.strerror or error
    return CannotWrite(f"{path} cannot be written: {reason}. Free space or choose another output folder.")


def _flush_to_disk(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
