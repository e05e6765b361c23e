"""Files and folders → the image files named, and those inside the folders."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.data.file_names import walk_files
from detection.data.image_kinds import readable_endings

logger = logging.getLogger(__name__)

# Folders that systems create among images: macOS metadata in archives, Synology's thumbnails, Windows' deleted files
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_FEW = 3  # extensions that a message lists


def find_images(paths: Iterable[Path], *, leave_out: Path | None = None) -> list[Path]:
    """The files named, and all images below the folders named, in order, each once.

    Images are known by their endings (`readable_endings`). Hidden files and folders (`.…`, such as macOS's `._a.jpg`
    and `.ipynb_checkpoints`) and folders that systems create are skipped, unless they are named themselves; the log
    says how many. Links to folders are followed; a folder that several lead to counts once. A broken link counts as an
    image that cannot be read.

    leave_out: a folder that is skipped if it lies within one of the named folders.

    Raises:
        UserError: a path does not exist, or no image is found.
    """
    paths = list(paths)
    found: dict[Path, None] = {}
    others: Counter[str] = Counter()
    hidden = 0
    for path in paths:
        if not path.is_dir():
            if not os.path.lexists(path):
                raise UserError(f"{printable(str(path))}: no such file or folder")
            found[path] = None
            continue
        below = []
        for file, is_hidden in _files(path, leave_out and leave_out.resolve()):
            if file.suffix.lower() not in readable_endings():
                others[file.suffix.lower()] += not is_hidden
            elif is_hidden:
                hidden += 1
            else:
                below.append(file)
        found |= dict.fromkeys(sorted(below))
    if hidden:
        logger.info("%d hidden files and leftovers of other systems are passed over", hidden)
    if not found:
        there = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in (+others).most_common(_FEW))
        raise UserError(
            f"{', '.join(printable(str(path)) for path in paths)}: no images there "
            f"(known endings: {' '.join(sorted(readable_endings()))})"
            + (f"; of other files there are {printable(there)}: convert them to JPEG or PNG" if there else "")
        )
    return list(found)


def _files(folder: Path, left_out: Path | None) -> Iterator[tuple[Path, bool]]:
    """All files below a folder, and whether each is hidden or in a hidden folder. Files below `left_out` are skipped,
    unless that is the folder itself."""
    left_out = None if left_out == folder.resolve() else left_out

    def enters(name: str) -> bool:
        return left_out is None or (folder / name).resolve() != left_out

    for name, _ in walk_files(folder, enters=enters, on_error=_warn):
        yield folder / name, any(map(is_hidden, name.split("/")))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or one that systems create."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _warn(error: OSError) -> None:
    logger.warning("%s cannot be read (%s): its images are passed over", printable(str(error.filename)), error.strerror)
