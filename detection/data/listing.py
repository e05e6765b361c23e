"""A folder → all its files by kind, from one pass; nothing is opened."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from backbones.common.errors import UserError
from detection.data.file_names import present_files
from detection.data.foreign_names import ImageFiles, is_image_name
from detection.data.image_search import is_hidden


class Listing:
    """The files below a folder, relative to it, with "/" between folders. Hidden ones are left out.

    only: folders below the root, absolute, whose files alone count; None: all. tops: these, or the root.
    """

    def __init__(self, root: Path, only: Sequence[Path] | None = None) -> None:
        """Raises UserError if there is no such folder."""
        if not root.is_dir():
            raise UserError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}; name it with --data")
        self.root = root
        self.is_part = only is not None
        self.tops = (root,) if only is None else tuple(only)
        parts = {""} if only is None else {folder.relative_to(root.absolute()).as_posix() for folder in only}
        starts = ["" if part in ("", ".") else f"{part}/" for part in sorted(parts)]
        self.files = sorted(
            {
                f"{start}{file}"
                for start in starts
                for file in present_files(root / start)
                if not any(is_hidden(part) for part in file.split("/"))
            }
        )

    @functools.cached_property
    def names_in(self) -> dict[str, list[str]]:
        """Folder ("" for the root) → the names of its own files."""
        found: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            folder, _, name = file.rpartition("/")
            found[folder].append(name)
        return dict(found)

    @functools.cached_property
    def folders(self) -> dict[str, str]:
        """Each folder and those above it by its name in lower case."""
        found = {"": ""}
        for folder in self.names_in:
            parts = folder.split("/")
            for end in range(1, len(parts) + 1):
                found.setdefault("/".join(parts[:end]).lower(), "/".join(parts[:end]))
        return found

    @functools.cached_property
    def images(self) -> list[str]:
        """The image files."""
        return [file for file in self.files if is_image_name(file)]

    @functools.cached_property
    def image_files(self) -> ImageFiles:
        """The image files, to be found by parts of their names."""
        return ImageFiles(self.images)

    def below(self, folder: str) -> list[str]:
        """The image files below a folder."""
        return [file for file in self.images if file.startswith(f"{folder}/")] if folder else self.images

    def with_ending(self, *endings: str) -> list[str]:
        """The files with one of these endings, given in lower case with the dot."""
        return [file for file in self.files if file.lower().endswith(endings)]
