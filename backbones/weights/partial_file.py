"""The unfinished file of a download: written by one process at a time, resumed only with bytes of the same file.

weights.pth.partial         the bytes fetched so far; it survives a kill or a power cut
weights.pth.partial.json    the file that it is a part of: URL, validator and size, as the server stated them
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..common.errors import UserError
from ..common.locks import close_before_renaming, is_at, lock
from ..common.units import in_bytes


class PartialFile:
    """The unfinished file and a note beside it, with which a later run can resume safely.

    The note holds the URL, the validator and the total size. Bytes without a note, or from another URL, are discarded.
    """

    def __init__(self, file: BinaryIO, url: str) -> None:
        self.file = file
        self.path = Path(file.name)
        self.url = url
        self.offset = file.seek(0, os.SEEK_END)
        self.validator: str | None = None
        self.total: int | None = None
        try:
            note: Any = json.loads(_note_of(self.path).read_text())
            if note["url"] != url:
                raise ValueError("the part of another file")
            self.validator, self.total = note["validator"], note["total"]
        except (OSError, ValueError, KeyError, TypeError):
            self.restart()
        self.resumed = self.offset > 0

    def restart(self) -> None:
        """Discards the bytes fetched so far."""
        self.file.truncate(0)
        self.offset = 0
        self.validator = self.total = None
        self.resumed = False

    def describe(self, validator: str | None, total: int | None) -> None:
        """Writes the note, before the first byte is written."""
        self.validator, self.total = validator, total
        _note_of(self.path).write_text(json.dumps({"url": self.url, "validator": validator, "total": total}))

    def write(self, chunk: bytes) -> None:
        """Appends a piece. Raises UserError if it cannot be written."""
        try:
            self.file.write(chunk)
        except OSError as error:
            raise UserError(f"cannot write {self.path} after {in_bytes(self.offset)}: {error}") from error
        self.offset += len(chunk)

    def finish(self, destination: Path) -> None:
        """Renames the file to `destination`, after its content has reached the disk. After a power cut in between, the
        next download finds the file complete."""
        os.fsync(self.file.fileno())
        close_before_renaming(self.file)
        os.replace(self.path, destination)
        _note_of(self.path).unlink(missing_ok=True)


def remove_note(partial: Path) -> None:
    """Removes the note of an unfinished file that is there no longer: a kill within `finish` leaves it."""
    with contextlib.suppress(OSError):  # a folder that cannot be written, or no note
        if not partial.exists():
            _note_of(partial).unlink()


def _note_of(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[BinaryIO]:
    """Opens the unfinished file at `path` for appending, locked for this process; other processes wait.

    It is unbuffered, so that a kill loses nothing that was written. A file that is empty at the end is removed.
    """
    while True:
        file = path.open("ab", buffering=0)
        with contextlib.suppress(OSError):  # a file system without locks: then no process waits
            lock(file, wait=True)
        # If the previous holder of the lock renamed or removed the file, this lock has no effect.
        if is_at(path, file):
            break
        file.close()
    with file:
        try:
            yield file
        finally:
            with contextlib.suppress(FileNotFoundError):  # it was renamed
                if path.stat().st_size == 0:
                    close_before_renaming(file)
                    _note_of(path).unlink(missing_ok=True)
                    path.unlink()
