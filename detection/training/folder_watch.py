"""The folder that a run writes into → an error if it was deleted, moved or replaced during the run.

If the folder is deleted, so is the run's lock: a second run could then begin there while the first still writes into
the same path.
"""

from __future__ import annotations

import os
from pathlib import Path

from backbones.common.errors import UserError

Identity = tuple[int, int]  # of a file or folder: device, inode


class FolderWatch:
    """Records the identity of `folder` and of the lock file in it, to compare them later."""

    def __init__(self, folder: str | os.PathLike[str], lock: str = "run.lock") -> None:
        self.folder = Path(folder)
        self._watched = [self.folder, self.folder / lock]
        self._identities = [_identity(path) for path in self._watched]

    def check(self) -> None:
        """Compares the folder and its lock file with those recorded.

        Raises:
            UserError: the folder or its lock file is missing or was replaced.
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
