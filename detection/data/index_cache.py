"""An index that takes long to read ↔ a file of its arrays, which a later start maps in a fraction of a second.

The files lie in the folder of caches (`backbones.common.files.cache_folder`), so that every run on the same data uses
one file, and nothing is written beside the data. A file is used only if

- it was made of the same facts (the configuration of the data, the split, the check), by the same source code;
- nothing that the index was made of has changed since: label files by size, time and inode, or else by SHA-256; image
  files, where their headers were read, by size, time and inode; folders, and with them which files there are, by time;
- its checksums, of the header and of all arrays, are those of its bytes.

Otherwise it is made anew. What was repaired is kept with the index, so that a second start says the same as the first.
A change within two seconds before an index is read, which a file system's clock may not tell from one after, prevents
keeping.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write, cache_folder, sha256_of
from detection.data.findings import Example, Finding, Findings
from detection.data.index import DatasetIndex, StatedObjects
from detection.data.tensor_file import NoChecksums, Place, find_damage, map_array, read_header, write_arrays
from detection.data.watched_files import Watched, watch

LEAST = 50_000  # images and objects together; a smaller index is read in less than a second
SETTLED = 2.0  # seconds; the coarsest clock of a file system, FAT's
_UNUSED = 90 * 86_400.0  # seconds after which a file that no start has used is removed
_KIND = "index"
_FROM_FILES = ("size_missing", "size_unreadable", "image_unreadable_left_out")  # findings that image files gave

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """An index from the cache. said: lines about where the labels were found, which the log shows again."""

    index: DatasetIndex
    said: list[str]


def open_kept(facts: Mapping[str, Any]) -> Kept | None:
    """The index that was kept for these facts, mapped from its file; None if there is none that can be trusted."""
    try:
        path = _path(facts)
        if not path.is_file():
            return None
        metadata, places = read_header(path)
        if metadata.get("facts") != _plain(facts) or metadata.get("made_by") != _made_by():
            return None
        watched = _watched(path, places)
        changed = watched.changed()
        sums = metadata["sha256"]
        if not all(watched.has_same_content(one, sums.get(one)) for one in changed):
            logger.debug("%s: %s has changed: the labels are read again", path, changed[0])
            return None
        if find_damage(path) is not None:
            logger.debug("%s: is damaged: the labels are read again", path)
            return None
        kept = Kept(_index(path, metadata, places), metadata["said"])
    except (UserError, OSError, NoChecksums, KeyError, TypeError, ValueError) as error:
        logger.debug("the kept index is not used: %s", error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    if changed:
        with contextlib.suppress(UserError, OSError):
            _write(path, facts, kept.index, kept.said, watched.renewed(), sums)
    return kept


def is_kept(facts: Mapping[str, Any]) -> bool:
    """Whether an index is kept for these facts whose sources have not changed."""
    try:
        path = _path(facts)
        metadata, places = read_header(path)
        return metadata.get("facts") == _plain(facts) and not _watched(path, places).changed()
    except (UserError, OSError, KeyError, ValueError):
        return False


def keep(
    facts: Mapping[str, Any],
    index: DatasetIndex,
    *,
    roots: Sequence[Path],
    labels: Path,
    images: bool,
    since: float,
    said: Sequence[str] = (),
    least: int | None = None,
) -> None:
    """Writes an index to the cache, if it is large enough and was made of files that had settled.

    Args:
        facts: JSON-able, what else decides the index.
        roots: the files and folders that it was made of.
        labels: the label file, or their folder. A file counts as unchanged where its content is.
        images: whether it depends on the contents of image files.
        since: when reading began, in seconds since the epoch.
        said: see `Kept`.
        least: images and objects from which on it is large enough; None: `LEAST`.
    """
    if len(index) + len(index.boxes) < (LEAST if least is None else least):
        return
    try:
        images = images or any(index.findings.count(kind) for kind in _FROM_FILES)
        watched, latest = watch(roots, images=images)
        if latest > since - SETTLED:
            logger.debug("%s: has just changed: the index is not kept", labels)
            return
        sums = {str(labels.absolute()): sha256_of(labels)} if labels.is_file() else {}
        _write(_path(facts), facts, index, said, watched, sums)
    except (UserError, OSError) as error:  # a read-only or full disk: the next start reads the labels again
        logger.info("the index of %s is not kept for the next start: %s", labels, error)


def _write(
    path: Path,
    facts: Mapping[str, Any],
    index: DatasetIndex,
    said: Sequence[str],
    watched: Watched,
    sums: Mapping[str, str],
) -> None:
    arrays = _arrays(index)
    names = "\0".join(watched.paths).encode("utf-8", "surrogateescape")
    arrays |= {"watched": np.frombuffer(names, dtype=np.uint8), "stamps": watched.stamps}
    size = sum(array.nbytes for array in arrays.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(path.parent).free // 4:
        raise OSError(f"it takes {size >> 20} MiB, more than a quarter of what is free in {path.parent}")
    _remove_unused(path.parent)
    metadata = {
        "kind": _KIND,
        "facts": _plain(facts),
        "made_by": _made_by(),
        "sha256": dict(sums),
        "said": list(said),
        "name": index.name,
        "image_root": None if index.image_root is None else str(index.image_root),
        "annotation_file": str(index.annotation_file),
        "category_names": index.category_names,
        "fingerprint": index.fingerprint,
        "open_classes": index.open_classes,
        "tars": index.tars,
        "purpose": index.findings.purpose,
        "findings": [
            [kind, finding.count, [[str(one), one.image, one.box] for one in finding.examples]]
            for kind, finding in index.findings.by_kind.items()
        ],
    }
    with atomic_write(path) as temporary:
        write_arrays(temporary, arrays, metadata)


def _arrays(index: DatasetIndex) -> dict[str, np.ndarray]:
    found = {field.name: getattr(index, field.name) for field in fields(index)}
    if index.stated is not None:
        found |= {f"stated.{name}": array for name, array in vars(index.stated).items()}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return {name: array.view(np.uint8) if array.dtype == bool else array for name, array in arrays.items()}


def _index(path: Path, metadata: Mapping[str, Any], places: Mapping[str, Place]) -> DatasetIndex:
    arrays = {name: np.asarray(map_array(path, place, "c")) for name, place in places.items()}
    arrays = {name: array.view(bool) if name.endswith("crowds") else array for name, array in arrays.items()}
    findings = Findings(metadata["purpose"])
    for kind, count, examples in metadata["findings"]:
        findings.by_kind[kind] = Finding(count, [Example(*one) for one in examples])
    stated = {name.removeprefix("stated."): array for name, array in arrays.items() if name.startswith("stated.")}
    own = {name: array for name, array in arrays.items() if "." not in name and name not in ("watched", "stamps")}
    root = metadata["image_root"]
    return DatasetIndex(
        name=metadata["name"],
        image_root=None if root is None else Path(root),
        annotation_file=Path(metadata["annotation_file"]),
        category_names=metadata["category_names"],
        fingerprint=metadata["fingerprint"],
        findings=findings,
        open_classes=metadata["open_classes"],
        tars=metadata["tars"],
        stated=StatedObjects(**stated) if stated else None,
        **own,
    )


def _watched(path: Path, places: Mapping[str, Place]) -> Watched:
    names = map_array(path, places["watched"]).tobytes().decode("utf-8", "surrogateescape").split("\0")
    return Watched(names, np.asarray(map_array(path, places["stamps"])))


def _path(facts: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(_plain(facts), sort_keys=True).encode())
    return cache_folder() / "indices" / f"{digest.hexdigest()[:32]}.index"


def _plain(facts: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(facts))


@functools.cache
def _made_by() -> str:
    """A digest of the source code that reads labels: another version may read them in another way."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256(np.__version__.encode())
    for folder in (root / "data", root / "common"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _remove_unused(folder: Path) -> None:
    """Removes the files in the cache that no start has used for months."""
    for path in folder.glob("*.index"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED:
                path.unlink()
