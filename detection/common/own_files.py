"""Files that are replaced only if this project wrote them, which their content shows: a list of names could not tell
that a listed file was replaced by another."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.text import printable


def require_own(path: Path, is_own: Callable[[Path], bool], otherwise: str) -> None:
    """Raises a UserError if there is something at `path` that is not a file of our own.

    is_own: whether a file's content shows that it is; an error while it reads means no. otherwise: what is wrong with
    another file, in words.
    """
    if not os.path.lexists(path):
        return
    with contextlib.suppress(UserError, OSError, ValueError):
        if path.is_file() and not path.is_symlink() and is_own(path):
            return
    raise UserError(
        f"{printable(str(path))}: exists already, and {otherwise}; name another output (--output), or move it away"
    )
