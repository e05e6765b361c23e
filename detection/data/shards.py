"""Images in tar files (the shards of WebDataset) → where the bytes of each are, so that they are read at random.

Nothing is unpacked. The tar files are gone through once, header by header; from then on an image is read by its place:
the number of its tar file, its first byte there, and its length. A tar file may hold anything else beside the images.
Names in the labels are those of the members, as they would be those of files in a folder.

    open_shards(images)   a folder of tar files, one of them, or train-{000000..000099}.tar → `Shards`; else None
    open_file(path)       the bytes of an image, in a file of its own or in a tar file

Shapes: N members of all tar files.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from backbones.common.errors import UserError
from detection.data.foreign_names import is_image_name

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BLOCK = tarfile.BLOCKSIZE
_MOST = 1_000_000  # tar files of a pattern

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # the class of this system's paths, of which alone subclasses can be made in Python 3.11


class MemberPath(_Path):
    """The place of an image in a tar file. It reads as `folder/shard.tar/member`; `open_file` opens it.

    tar: the tar file. start, size: the image's bytes in it.
    """

    tar: Path
    start: int
    size: int

    @classmethod
    def of(cls, tar: Path, name: str, start: int, size: int) -> MemberPath:
        """The path of a member."""
        path = cls(tar, name)
        path.tar, path.start, path.size = tar, start, size
        return path

    def __reduce__(self) -> tuple[Any, ...]:
        return MemberPath.of, (self.tar, str(self.relative_to(self.tar)), self.start, self.size)


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens an image for reading, whether it is a file of its own or lies in a tar file.

    Raises:
        OSError: it cannot be read, or its tar file ends before it.
    """
    if not isinstance(path, MemberPath):
        with open(path, "rb") as file:
            yield file
        return
    with path.tar.open("rb") as tar:
        tar.seek(path.start)
        data = tar.read(path.size)
    if len(data) < path.size:
        raise OSError(f"the tar file ends after {path.start + len(data)} bytes, within this member: get it again")
    yield io.BytesIO(data)


def size_of(path: Path) -> int:
    """The bytes of an image. Raises OSError."""
    return path.size if isinstance(path, MemberPath) else path.stat().st_size


@dataclass(frozen=True)
class Shards:
    """The members of some tar files that are files.

    root: the folder of the tar files. tars: their names relative to it. names: N names of members, without a leading
    "./". places: int64 (N, 3), the tar file's number, the first byte in it, the bytes.
    """

    root: Path
    tars: list[str]
    names: list[str]
    places: np.ndarray

    def path(self, row: int) -> MemberPath:
        """Where a member is."""
        return path_of_member(self.root, self.tars, self.names[row], self.places[row])


def path_of_member(root: Path, tars: Sequence[str], name: str, place: np.ndarray) -> MemberPath:
    """The path of a member by its row of `Shards.places`."""
    tar, start, size = (int(number) for number in place)
    return MemberPath.of(root / tars[tar], name, start, size)


def shard_files(images: Path) -> list[Path] | None:
    """The tar files that a path of images means; None if it means none, but a folder of image files.

    images: a pattern with ranges of numbers in braces; a tar file; or a folder that holds tar files, and neither
    folders nor image files.

    Raises:
        UserError: some of the pattern's files are missing; they are compressed.
    """
    if _RANGE.search(str(images)):
        files = [Path(text) for text in _expanded(str(images))]
        absent = [file for file in files if not file.is_file()]
        if absent:
            raise UserError(f"{images}: {len(absent)} of the {len(files)} tar files are missing: {absent[0].name}, …")
    elif images.is_dir():
        files = _tars_in(images)
    else:
        files = [images] if images.name.lower().endswith((".tar", *_COMPRESSED)) and images.is_file() else []
    packed = [file for file in files if file.name.lower().endswith(_COMPRESSED)]
    if packed:
        raise UserError(
            f"{packed[0]}: is compressed, so that no image in it can be read without all before it; unpack it to a "
            "plain .tar file"
        )
    return files or None


def _expanded(text: str) -> list[str]:
    """The names of a pattern, as a shell gives them.

    >>> _expanded("a-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    found = _RANGE.search(text)
    if not found:
        return [text]
    first, last = found.groups()
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= _MOST:
        raise UserError(f"{text}: {found.group()} has {len(numbers)} numbers; 1 to {_MOST} are read")
    rests = _expanded(text[found.end() :])
    return [f"{text[: found.start()]}{number:0{width}d}{rest}" for number in numbers for rest in rests]


def _tars_in(folder: Path) -> list[Path]:
    """The tar files in a folder, if they are its images."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_image_name(entry.name) or entry.is_dir():
                return []
            if entry.name.lower().endswith((".tar", *_COMPRESSED)):
                found.append(folder / entry.name)
    return sorted(found)


def open_shards(images: Path) -> Shards | None:
    """The members of the tar files that a path of images means (see `shard_files`); None if it means none.

    Every tar file is gone through from its beginning to its end, several at once.

    Raises:
        UserError: a tar file cannot be read, is cut short or damaged; the message names the last sound member.
    """
    files = shard_files(images)
    if files is None:
        return None
    root = Path(os.path.commonpath([file.parent for file in files]))
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        found = list(pool.map(_members, files))
    names = [name for members, _ in found for name in members]
    numbers = np.repeat(np.arange(len(files)), [len(members) for members, _ in found])
    places = np.concatenate([numbers[:, None], np.concatenate([own for _, own in found])], axis=1)
    return Shards(root, [file.relative_to(root).as_posix() for file in files], names, places)


def image_paths(images: Path) -> Callable[[str], Path]:
    """Name of an image → its path, below a folder of images or in tar files (see `open_shards`)."""
    shards = open_shards(images)
    if shards is None:
        return lambda name: images / name
    row_of = dict(zip(shards.names, range(len(shards.names)), strict=True))
    return lambda name: shards.path(row_of[name]) if name in row_of else shards.root / name


def _members(file: Path) -> tuple[list[str], np.ndarray]:
    """(names, (first byte, bytes) int64 (n, 2)) of the files in a tar file."""
    names, places, end, after = [], [], 0, ""
    try:
        length = file.stat().st_size
        with tarfile.open(file, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                end = tar.offset  # where the next header should be
                if end > length:
                    raise UserError(f"{file}: is cut short within the member {member.name}; get it again")
                after = f" after the member {member.name}"
                tar.members = []  # type: ignore[attr-defined]  # which would hold an object for each
                if member.isreg() and not member.issparse():
                    names.append(member.name.removeprefix("./"))
                    places.append((member.offset_data, member.size))
        with file.open("rb") as rest:
            rest.seek(end)
            mark = rest.read(2 * _BLOCK)
    except tarfile.TarError as error:
        raise UserError(f"{file}: is damaged{after}, or no tar file ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    if mark[:_BLOCK] != bytes(_BLOCK):  # the standard asks for two blocks of zeros at the end
        fault = "is cut short" if len(mark) < _BLOCK else "is damaged"
        raise UserError(f"{file}: {fault}{after}; get it again")
    return names, np.array(places, dtype=np.int64).reshape(-1, 2)
