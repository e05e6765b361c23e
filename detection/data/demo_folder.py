"""A folder of files that this project drew; no other file in it is ever replaced or removed.

    folder/demo.json       what made it, and the SHA-256 of every file that was drawn
    folder/demo.partial    while it is drawn: one line per file, written before the file
    folder/demo.lock       locked by the process that draws

A folder with any other file, or with a drawn file that was changed, is refused: it may be the user's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite, read_json_object, write_text
from backbones.common.locks import lock

logger = logging.getLogger(__name__)

_MARKER, _JOURNAL, _LOCK = "demo.json", "demo.partial", "demo.lock"
# The names that drawn files can have. No other file is touched, even if a demo.json lists it.
_NAME = re.compile(r"annotations/instances_(train|test)\.json|(train|test)/\d{6,}\.jpg")
_TEMPORARY = re.compile(r"\..+\.tmp")  # the unfinished file of a killed process
# Files that desktop environments create in folders that are opened.
_OF_DESKTOPS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.directory")
_SHOWN = 5  # files that a message lists


class DemoFolder:
    """The folder at `path`, which need not exist."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def is_whole(self, making: Mapping[str, Any]) -> bool:
        """Whether the folder holds exactly the files that `making` describes. Writes nothing."""
        marker = self._marker()
        if marker is None or any(marker.get(key) != value for key, value in making.items()):
            return False
        if (self.path / _JOURNAL).exists():
            return False
        found = self._found()
        return found == marker["files"] if "files" in marker else _joint_digest(self.path, found) == marker["digest"]

    @contextlib.contextmanager
    def drawing(self, making: Mapping[str, Any]) -> Iterator[Drawing | None]:
        """Within the block only this process draws here. At its end, files of earlier drawings that were not drawn
        again are removed.

        Yields None if another process has meanwhile drawn the same files; then there is nothing to do.

        Raises:
            UserError: some files here were not drawn, or were changed since (the message names them and the remedy); or
                the folder cannot be written.
        """
        if not any((self.path / name).exists() for name in (_MARKER, _JOURNAL, _LOCK)):
            self._require_untouched()  # before anything is written, even the lock file
        with self._hold_lock():
            if self.is_whole(making):
                yield None
                return
            own = self._require_untouched()
            with self._journal() as journal:
                journal.writelines(f"{digest} {name}\n" for name, digests in own.items() for digest in digests)
                drawing = Drawing(self.path, own, journal)
                yield drawing
            drawing.remove_the_rest()
            files = dict(sorted(drawing.drawn.items()))
            write_text(self.path / _MARKER, json.dumps({**making, "files": files}, indent=2))
            (self.path / _JOURNAL).unlink(missing_ok=True)

    def _require_untouched(self) -> dict[str, set[str]]:
        """Name → SHA-256 (of several versions) of the drawn files; raises UserError if there is any other file."""
        found = self._found()
        own = self._own(found)
        others = [name for name, digest in found.items() if digest not in own.get(name, ())]
        has_marker = (self.path / _MARKER).exists()
        if has_marker and self._marker() is None:
            others.insert(0, _MARKER)
        if not others:
            return own
        shown = ", ".join(f"{name} ({'changed' if name in own else 'not drawn'})" for name in others[:_SHOWN])
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        what = "is not as the demo drew it" if own or has_marker else "holds files that are no demo data set"
        raise UserError(
            f"{self.path}: {what}: {shown}{more}; and a configuration of the demo is in use. Nothing was touched. For "
            "images of your own, train with a configuration that names them (--config), or with this one and "
            "data.layout=auto, and look at them with a "
            "trained network by data.test.annotations=FILE data.test.images=DIR; for the demo, name another folder "
            "(--data), or move what is named out of this one"
        )

    @contextlib.contextmanager
    def _hold_lock(self) -> Iterator[None]:
        """Holds the folder's lock within the block; waits while another process draws here."""
        with _report_write_error(self.path / _LOCK):
            self.path.mkdir(parents=True, exist_ok=True)
            file = open(self.path / _LOCK, "ab", buffering=0)  # noqa: SIM115 - closed below, which frees the lock
        with file:
            try:
                if not lock(file):
                    logger.info("another process is drawing the demo into %s: waiting for it", self.path)
                    lock(file, wait=True)
            except OSError:  # then two processes may draw here at once
                logger.warning("%s: this file system has no locks: draw by one process at a time", self.path)
            yield

    @contextlib.contextmanager
    def _journal(self) -> Iterator[IO[str]]:
        with _report_write_error(self.path / _JOURNAL):
            file = open(self.path / _JOURNAL, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closed below
        with file:
            yield file

    def _marker(self) -> dict[str, Any] | None:
        """The content of demo.json; None if it is missing or was not written by this project."""
        content = read_json_object(self.path / _MARKER)
        if isinstance(content.get("files"), dict):
            return content if all(isinstance(digest, str) for digest in content["files"].values()) else None
        return content if isinstance(content.get("digest"), str) else None  # of an earlier release

    def _own(self, found: Mapping[str, str]) -> dict[str, set[str]]:
        """Name → SHA-256 of all drawn files, present or not. `found`: the files that are present."""
        own: dict[str, set[str]] = {}
        pairs: list[tuple[str, str]] = []
        # The journal is read first: it is removed only after the marker was written.
        with contextlib.suppress(OSError):
            for line in (self.path / _JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
                digest, _, name = line.partition(" ")
                pairs.append((name, digest))
        marker = self._marker() or {}
        if "files" in marker:
            pairs += marker["files"].items()
        elif marker.get("digest") == _joint_digest(self.path, found):
            pairs += found.items()
        for name, digest in pairs:
            if _NAME.fullmatch(name):
                own.setdefault(name, set()).add(digest)
        return own

    def _found(self) -> dict[str, str]:
        """Name → SHA-256 of every file; "" for a link and for anything that is not a regular file."""
        found: dict[str, str] = {}
        for folder, folders, names in os.walk(self.path):
            for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
                path = Path(folder) / name
                relative = path.relative_to(self.path).as_posix()
                if relative in (_MARKER, _JOURNAL, _LOCK) or _OF_DESKTOPS.fullmatch(name) or _TEMPORARY.fullmatch(name):
                    continue
                with contextlib.suppress(FileNotFoundError):  # the process that draws here has just removed it
                    found[relative] = _digest_of(path)
        return dict(sorted(found.items()))


class Drawing:
    """Writes drawn files into a folder; see `DemoFolder.drawing`.

    Attributes:
        drawn: name → SHA-256 of every file so far.
    """

    def __init__(self, folder: Path, own: Mapping[str, set[str]], journal: IO[str]) -> None:
        self.drawn: dict[str, str] = {}
        self._folder, self._own, self._journal = folder, own, journal

    def put(self, name: str, content: bytes) -> None:
        """Writes `content` into the file `name` of the folder, atomically.

        Raises:
            UserError: another file has appeared there meanwhile, or it cannot be written.
        """
        path, digest = self._folder / name, hashlib.sha256(content).hexdigest()
        self.drawn[name] = digest
        with _report_write_error(path):
            there = _digest_of(path) if os.path.lexists(path) else None
            if there == digest:
                return
            if there is not None and there not in self._own.get(name, ()):
                raise UserError(f"{path} came while the demo was drawn, which would have replaced it: move it away")
            self._journal.write(f"{digest} {name}\n")
            self._journal.flush()
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(content)
            os.replace(temporary, path)

    def remove_the_rest(self) -> None:
        """Removes the files of earlier drawings and the unfinished files of killed processes."""
        for name in sorted(self._own.keys() | self.drawn.keys()):
            path = self._folder / name
            with _report_write_error(path):
                path.with_name(f".{path.name}.tmp").unlink(missing_ok=True)
                if name not in self.drawn and os.path.lexists(path) and _digest_of(path) in self._own[name]:
                    path.unlink()


@contextlib.contextmanager
def _report_write_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written: {error.strerror or error}. Free space or name another folder (--data)."
        ) from error


def _digest_of(path: Path) -> str:
    return "" if path.is_symlink() or not path.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()


def _joint_digest(folder: Path, names: Mapping[str, str]) -> str:
    """SHA-256 over names, sizes and bytes, by which earlier releases recognised their files."""
    digest = hashlib.sha256()
    for path in sorted(folder / name for name in names):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
