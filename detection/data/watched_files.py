"""Files and folders → stamps, by which a later start sees whether any of them has changed.

A stamp is (size, time of the last change in nanoseconds, inode) of a file, and the time alone of a folder, which
changes when an entry is added, removed or renamed. Shapes: W watched files and folders.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.common.files import sha256_of
from detection.data.foreign_names import is_image_name

_ABSENT = -2, -2, -2  # no stamp, for what is not there


@dataclass(frozen=True)
class Watched:
    """paths: W absolute paths. stamps: int64 (W, 3)."""

    paths: list[str]
    stamps: np.ndarray

    def renewed(self) -> Watched:
        """The same paths with the stamps that they have now."""
        stamps = np.tile(np.array(_ABSENT, dtype=np.int64), (len(self.paths), 1))
        for row, path in enumerate(self.paths):
            with contextlib.suppress(OSError):
                stamps[row] = _stamp(os.stat(path))
        return Watched(self.paths, stamps)

    def changed(self) -> list[str]:
        """The paths whose stamps are other ones now."""
        now = self.renewed().stamps
        return [self.paths[row] for row in np.flatnonzero((now != self.stamps).any(axis=1)).tolist()]

    def has_same_content(self, path: str, sha256: str | None) -> bool:
        """Whether a file whose time or inode has changed still has its size, and this SHA-256."""
        size = int(self.stamps[self.paths.index(path), 0])
        try:
            return sha256 is not None and size >= 0 and os.stat(path).st_size == size and sha256_of(path) == sha256
        except OSError:
            return False


def watch(roots: Iterable[Path], *, images: bool) -> tuple[Watched, float]:
    """(the files among `roots`, and all folders and files below the folders among them; the time of the latest change
    of any, in seconds since the epoch). Of what is not there is noticed when it is made.

    images: whether the contents of image files count. If not, only links to images are watched by themselves: whether
    the others are there, their folders' stamps tell.

    Raises:
        OSError: something cannot be read.
    """
    found: dict[str, tuple[int, int, int]] = {}
    latest = 0.0
    waiting, seen = [str(root.absolute()) for root in roots], set()
    while waiting:
        path = waiting.pop()
        try:
            status = os.stat(path)
        except FileNotFoundError:  # a file that may be made, or the target of a link
            found[path] = _ABSENT
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        if path in found or (is_folder and (status.st_dev, status.st_ino) in seen):  # links may form cycles
            continue
        found[path] = _stamp(status)
        latest = max(latest, status.st_mtime, status.st_ctime)
        if is_folder:
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                waiting += [
                    entry.path
                    for entry in entries
                    if images or entry.is_symlink() or entry.is_dir() or not is_image_name(entry.name)
                ]
    return Watched(list(found), np.array(list(found.values()), dtype=np.int64).reshape(-1, 3)), latest


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    if stat.S_ISDIR(status.st_mode):
        return -1, status.st_mtime_ns, 0
    return status.st_size, status.st_mtime_ns, status.st_ino & (2**63 - 1)
