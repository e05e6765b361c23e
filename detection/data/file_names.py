"""File names in annotations → existing files whose names differ from them only in spelling.

Tools on other systems write `train\\a.jpg` for `train/a.jpg`; file systems of Windows and macOS ignore case;
web tools write `my%20cat.jpg`; macOS spells `é` as two characters (NFD), others as one (NFC).
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote


@dataclass(frozen=True)
class MatchedNames:
    """files: the file of each name; the name itself if none was found. respelled: (name, file, difference) for names
    whose spelling differs from their file's. absent: (name, remark) for names without a file; the remark names a
    similar file, or is "".
    """

    files: list[str]
    respelled: list[tuple[str, str, str]]
    absent: list[tuple[str, str]]


def walk_files(
    root: Path,
    *,
    enters: Callable[[str], bool] = lambda folder: True,
    on_error: Callable[[OSError], None] = lambda error: None,
) -> Iterator[tuple[str, bool]]:
    """(name, whether it is a file that is there) of everything below a folder that is no folder: names relative to it,
    with "/" between folders. Links to folders are followed; a folder counts once, by its own name if that is below.

    Args:
        enters: whether a folder, given by its relative name, is entered.
        on_error: called for each folder that cannot be read; it counts as empty.
    """
    waiting, links = [""], list[str]()
    seen: set[tuple[int, int]] = set()
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            waiting.append(links.pop())
        folder = waiting.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:  # links may form cycles
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scanned:
                entries = list(scanned)
        except OSError as error:
            on_error(error)
            continue
        for entry in entries:
            name = f"{folder}{entry.name}"
            if not _is(entry.is_dir):
                yield name, _is(entry.is_file)
            elif enters(name):
                (links if entry.is_symlink() else waiting).append(f"{name}/")


def _is(kind: Callable[[], bool]) -> bool:
    """What a directory entry says of itself; a link to itself is nothing."""
    try:
        return kind()
    except OSError:
        return False


def present_files(root: Path) -> set[str]:
    """All files below a folder, relative to it, with "/" between folders; broken links are not included.

    A folder that cannot be read counts as empty. See `walk_files`.
    """
    return {name for name, is_there in walk_files(root) if is_there}


def leads_out(name: str) -> bool:
    """Whether a file name is absolute, on this system or on Windows, or leads out of the folder it is relative to."""
    windows = PureWindowsPath(name)
    if windows.drive or windows.root or PurePosixPath(name).is_absolute():
        return True
    depth = 0
    for part in name.replace("\\", "/").split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


def match_file_names(names: Sequence[str], present: Iterable[str]) -> MatchedNames:
    """Finds the file of each name.

    A name without an exact match is matched to the only file that differs from it just by backslashes,
    percent-encoding, Unicode normal form or case. Files that match another name exactly are not considered. Where two
    names match one file, or one name two files, none is matched.

    Args:
        names: file names as the annotations give them.
        present: the existing files (see `present_files`).

    >>> match_file_names(["a.jpg", "sub\\\\B.JPG"], {"a.jpg", "sub/b.jpg"}).files
    ['a.jpg', 'sub/b.jpg']
    """
    present = set(present)
    wanted = [name for name in dict.fromkeys(names) if name not in present]
    if not wanted:
        return MatchedNames(list(names), [], [])
    candidates = _grouped(present.difference(names), spelling_key)
    file_of: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for name in wanted:
        files = candidates.get(spelling_key(name), [])
        for stricter in (_normalise_name, _decode_name):
            if len(files) > 1:
                files = [file for file in files if stricter(file) == stricter(name)] or files
        if len(files) == 1:
            file_of[name] = files[0]
        elif files:
            remarks[name] = f"{files[0]} and {files[1]} are there; which one is meant?"
    claims = Counter(file_of.values())
    for name in [name for name in file_of if claims[file_of[name]] > 1]:
        remarks[name] = f"{file_of.pop(name)} is there, but more than one name could mean it"
    unexplained = [name for name in wanted if name not in file_of and name not in remarks]
    remarks |= _remarks(unexplained, present) if unexplained else {}
    return MatchedNames(
        files=[file_of.get(name, name) for name in names],
        respelled=[(name, file, _difference(name, file)) for name, file in file_of.items()],
        absent=[(name, remarks.get(name, "")) for name in wanted if name not in file_of],
    )


def _slashes(name: str) -> str:
    """The name with "/" between its parts, without empty parts and "."."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def _decode_name(name: str) -> str:
    return unquote(_slashes(name), errors="surrogateescape")


def _normalise_name(name: str) -> str:
    return unicodedata.normalize("NFC", _decode_name(name))


def spelling_key(name: str) -> str:
    """A key that is the same for all spellings of a name."""
    return unicodedata.normalize("NFC", _normalise_name(name).casefold())


def _difference(name: str, file: str) -> str:
    """How two spellings of a name differ, in words."""
    found = []
    if name.replace("\\", "/") != name and "\\" not in file:
        found.append("backslashes")
    if unquote(name, errors="surrogateescape") != name and "%" not in file:
        found.append("percent-encoding")
    if _normalise_name(name) != _normalise_name(file):
        found.append("capitals")
    elif _decode_name(name) != _decode_name(file):
        found.append("Unicode normal form")
    return " and ".join(found) or "the path's spelling"


def _remarks(names: Sequence[str], present: set[str]) -> dict[str, str]:
    """Name → a similar file that exists, in words: the same name in another folder or with another extension."""
    by_file_name = _grouped(present, lambda file: spelling_key(file).rsplit("/", 1)[-1])
    by_stem = _grouped(present, lambda file: os.path.splitext(spelling_key(file))[0])
    remarks = {}
    for name in names:
        alike = spelling_key(name)
        elsewhere = by_file_name.get(alike.rsplit("/", 1)[-1], [])
        endings = by_stem.get(os.path.splitext(alike)[0], []) or by_stem.get(alike, [])
        if elsewhere:
            remarks[name] = f"{elsewhere[0]} is there: is the image folder the right one?"
        elif endings:
            remarks[name] = f"{endings[0]} is there, with another ending"
    return remarks


def _grouped(files: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        groups[key(file)].append(file)
    return groups
