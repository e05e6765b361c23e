"""The SHA-256 at the end of the project's own `.pt` files.

It is the zip's comment, the last bytes of the file, and is computed from all bytes before it. The two bytes before the
comment, which hold its length, are taken as 0, their value before the comment is added.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..common.files import require_plain_file

PREFIX = b"sha256 of all before: "
SIZE = len(PREFIX) + 64


def ending(digest: str) -> bytes:
    """The comment of a file whose content has this SHA-256, in hex, preceded by its length."""
    return SIZE.to_bytes(2, "little") + PREFIX + digest.encode()


def is_intact(path: Path) -> bool | None:
    """Whether a file's content agrees with the checksum at its end; None if there is no checksum.

    Raises:
        UserError: it is not a regular file (a pipe, a device).
        OSError: it cannot be read.
    """
    require_plain_file(path)
    with open(path, "rb") as file:
        rest = file.seek(0, os.SEEK_END) - SIZE - 2
        if rest < 0:
            return None
        file.seek(rest)
        found = file.read()
        if not found.startswith(ending("")):
            return None
        file.seek(0)
        digest = hashlib.sha256()
        while rest and (chunk := file.read(min(rest, 1 << 20))):
            digest.update(chunk)
            rest -= len(chunk)
    digest.update(b"\0\0")
    return found == ending(digest.hexdigest())
