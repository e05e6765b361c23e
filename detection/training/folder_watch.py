"""The folder that a run writes into → an error once it is not that folder any more.

A folder that is deleted takes the run's lock with it: a second run could begin there, and the first would go on writing
into the same place.
"""

from __future__ import annotations

import os
from pathlib import Path

from backbones.common.errors import UserError

Identity = tuple[int, int]  # of a file or folder: device, inode


class FolderWatch:
    """Remembers `folder`, and the lock's file in it, as they are now."""

    def __init__(self, folder: str | os.PathLike[str], lock: str = "run.lock") -> None:
        self.folder = Path(folder)
        self._watched = [self.folder, self.folder / lock]
        self._identities = [_identity(path) for path in self._watched]

    def check(self) -> None:
        """Looks again.

        Raises:
            UserError: the folder or its lock is gone, or another one stands in its place.
        """
        for path, before in zip(self._watched, self._identities, strict=True):
            if before is not None and _identity(path) != before:
                raise UserError(
                    f"{path} was deleted, moved or replaced while this run was writing into {self.folder}. Nothing "
                    "more is written, since another run could have begun there. Start again, with --resume if the "
                    "folder has its checkpoints still or again."
                )


def _identity(path: Path) -> Identity | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
