r"""The folders and lists that a YOLO `data.yaml` names → the images here.

The file often comes from another disk (`C:\Users\me\train\images`), or means another place than it says (Roboflow's
`../train/images` for the folder `train/images` beside it). What lies within the data set's folder counts first; then
the path as written; then the folder here that agrees with the end of the path.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from backbones.common.files import user_path
from detection.common.encodings import as_utf8
from detection.data.file_names import present_files
from detection.data.findings import Findings
from detection.data.foreign_names import is_image_name, resolve_names
from detection.data.listing import Listing
from detection.data.split_words import SPLIT_WORDS

_LIST_LIMIT = 1 << 30  # bytes of a list of images


@dataclass(frozen=True)
class Places:
    """Where the paths of a data.yaml may lead. folder: that of the file, relative to the listing's root. path: its
    `path`, which the others are relative to."""

    listing: Listing
    folder: str
    path: str


@dataclass(frozen=True)
class Images:
    """Image names relative to the root, absolute for those elsewhere, in order; findings; and the folders and lists
    elsewhere that were read."""

    names: tuple[str, ...]
    found: tuple[tuple[str, int, tuple[str, ...]], ...]
    outside: tuple[str, ...] = ()


def images_of_entry(places: Places, entry: Any) -> Images | None:
    """The images that `train`, `val` or `test` names: a folder, a text file that lists images, or a list of these; None
    if one of them is not there."""
    names: dict[str, None] = {}
    findings = Findings()
    outside = []
    for one in entry if isinstance(entry, list) else [entry]:
        place = _place_of(places, one) if isinstance(one, str) else None
        if place is None:
            return None
        if place.foreign:
            findings.add("folder_elsewhere", 1, [f"{one} → {place.path}"])
        outside += [place.path] if place.outside else []
        names |= dict.fromkeys(_images_in(places, place, findings))
    found = tuple((kind, finding.count, tuple(finding.examples)) for kind, finding in findings.by_kind.items())
    return Images(tuple(names), found, tuple(outside))


def _images_in(places: Places, place: _Place, findings: Findings) -> Iterable[str]:
    listing = places.listing
    if place.outside:
        path = Path(place.path)
        if path.is_file():
            return _listed(places, path, findings)
        return _images_below(path, path.as_posix())
    if (listing.root / place.path).is_file():
        return _listed(places, listing.root / place.path, findings)
    # A link to another folder of the data set is listed by that folder's name.
    return listing.below(place.path) or _images_below(listing.root / place.path, place.path)


def _images_below(folder: Path, name: str) -> list[str]:
    """The images below a folder, which is called `name`."""
    return sorted(f"{name}/{file}" for file in present_files(folder) if is_image_name(file))


@dataclass(frozen=True)
class _Place:
    """A file or folder, relative to the root, or absolute if it lies outside. foreign: it is not where the data.yaml
    says."""

    path: str
    foreign: bool = False
    outside: bool = False


def _place_of(places: Places, entry: str) -> _Place | None:
    text = entry.strip().replace("\\", "/")
    while text.startswith("./"):
        text = text[2:]
    windows = PureWindowsPath(text)
    is_absolute = bool(windows.drive) or text.startswith(("/", "~"))
    parts = [part for part in text.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    bases = list(dict.fromkeys([_inside(places, places.path), places.folder, ""]))
    for base in bases if not is_absolute else ():  # within the data set's folder
        if base is not None and (found := _existing(places.listing, [base, *parts])) is not None:
            return _Place(found, foreign=".." in text.split("/"))
    for path in _literal(places, text):
        if (path.exists() and not windows.drive) or (os.name == "nt" and path.exists()):
            own = os.path.abspath(path)
            own = own if os.path.exists(own) else str(path.resolve())  # `..` behind a link
            inside = _below(places.listing.root, own)
            return _Place(Path(own).as_posix(), outside=True) if inside is None else _Place(inside)
    for start in range(len(parts)):
        lost = {SPLIT_WORDS.get(part.lower()) for part in parts[:start]} - {None}
        kept = {SPLIT_WORDS.get(part.lower().partition(".")[0]) for part in parts[start:]} - {None}
        if lost and not kept:  # `images` alone is not the `train/images` that was meant
            break
        for base in (places.folder, ""):
            if (found := _existing(places.listing, [base, *parts[start:]])) is not None:
                return _Place(found, foreign=True)
    return None


def _inside(places: Places, path: str) -> str | None:
    """A data.yaml's `path` as a folder of the data set, None if it is none."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if not path or path[0] in "/\\~" or ".." in parts or PureWindowsPath(path).drive:
        return places.folder if not parts else None
    return _existing(places.listing, [places.folder, *parts])


def _literal(places: Places, text: str) -> list[Path]:
    """The paths that an entry may mean as written."""
    own = places.listing.root / places.folder
    base = user_path(places.path.replace("\\", "/")) if places.path else Path()
    return [own / base / user_path(text), own / user_path(text)]


def _existing(listing: Listing, parts: list[str]) -> str | None:
    """The file or folder of these parts in the listing, its own spelling; capitals do not count."""
    path = "/".join(part for part in parts if part)
    if path in listing.names_in or (path.rpartition("/")[2] in listing.names_in.get(path.rpartition("/")[0], ())):
        return path
    return listing.folders.get(path.lower())


def _listed(places: Places, path: Path, findings: Findings) -> list[str]:
    """The images that a text file lists, one a line, relative to the file's folder or the data set's."""
    try:
        if path.stat().st_size > _LIST_LIMIT:
            return []
        lines = as_utf8(path.read_bytes()).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    listing = places.listing
    here = os.path.relpath(path.parent, listing.root).replace(os.sep, "/")
    below = functools.cache(functools.partial(_below, listing.root))
    names = []
    for line in lines:
        name = line.strip().replace("\\", "/")
        if not name:
            continue
        if os.path.isabs(name) and os.path.exists(name):
            folder, file = os.path.split(os.path.abspath(name))
            inside = below(folder)
            names.append((Path(folder if inside is None else inside) / file).as_posix())
            continue
        candidates = [_joined(base, name) for base in (_inside(places, places.path), places.folder, here, "")]
        there = (one for one in candidates if one in listing.image_files.files or os.path.isfile(listing.root / one))
        names.append(next(there, name))
    # Outside the data set, or by a link to another folder of it
    kept = {name for name in names if name not in listing.image_files.files and os.path.isfile(listing.root / name)}
    resolved = iter(resolve_names([name for name in names if name not in kept], listing.image_files, findings, here))
    return [name if name in kept else next(resolved) for name in names]


def _below(root: Path, path: str) -> str | None:
    """An absolute path relative to the root, None if it lies elsewhere. Links below the root stay as they are written,
    because the labels lie beside the links, not beside the files that they lead to (Ultralytics'
    `data/utils.py`, img2label_paths, exchanges `images` for `labels` in the path as written). A link above it counts as
    the folder that it leads to."""
    for folder in (Path(path), *Path(path).parents):
        with contextlib.suppress(OSError):
            if os.path.samefile(folder, root):
                inside = Path(path).relative_to(folder).as_posix()
                return "" if inside == "." else inside
    return None


def _joined(base: str | None, name: str) -> str:
    return os.path.normpath(f"{base or '.'}/{name}").replace(os.sep, "/")
