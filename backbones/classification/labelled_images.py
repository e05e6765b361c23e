"""A folder → images with one label each: the ImageFolder layout, or CIFAR's official archives, unpacked.

    <root>/<split>/<class>/….jpeg     ImageFolder: a folder a class, labels in the order of the classes' names
    <root>/cifar-10-batches-py/…      see cifar_archives.py; the splits are `train` and `test`

Shapes: M images, K classes; an image is uint8 RGB (H, W, 3).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..common.errors import UserError
from ..common.files import user_path
from .cifar_archives import find_archives, read_archive

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif", ".avif", ".jp2"})

Reader = Callable[[Path], np.ndarray]


class LabelledImages(Protocol):
    """Images with one label each, cheap to send to worker processes.

    Attributes:
        classes: K names; label l is `classes[l]`.
        labels: int64 (M,).
        fingerprint: SHA-256 of names and labels (and of the pixels, where they are in memory).
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    fingerprint: str

    def __len__(self) -> int: ...

    def read(self, i: int) -> np.ndarray:
        """Image i, uint8 RGB (H, W, 3)."""
        ...

    def name(self, i: int) -> str:
        """The name of image i in messages."""
        ...


def open_images(
    root: str | os.PathLike[str],
    split: str,
    read: Reader,
    classes: Sequence[str] | None = None,
    endings: Collection[str] = EXTENSIONS,
) -> LabelledImages:
    """The images of a split: the folder `<root>/<split>` if there is one, else a CIFAR archive in (or at) `root`.

    Args:
        read: an image's path → uint8 RGB (H, W, 3).
        classes: the classes whose order gives the labels (those of a trained network); None: the folders' own, sorted.
            With them, a class may have no images, and a folder that is not one of them is refused.
        endings: the file extensions of images, in lower case.

    Raises:
        UserError: nothing there, no class folders, classes that do not match, or a damaged archive.
    """
    root = user_path(root)
    if (root / split).is_dir():
        return FolderImages(root / split, read, classes, endings)
    archives = find_archives(root)
    if len(archives) == 1:
        images = ArrayImages(*read_archive(archives[0], split))
        if classes is not None and tuple(classes) != images.classes:
            raise UserError(f"{archives[0]}: its classes are not those of the network, which knows {_some(classes)}")
        return images
    if archives:
        raise UserError(
            f"{root} holds several archives ({', '.join(map(str, archives))}): name one of them as the root"
        )
    raise UserError(
        f"{root / split} is not there: name a root with a folder a split and, in it, a folder of images a class, or "
        "with CIFAR's archive unpacked (cifar-10-batches-py, cifar-10-batches-bin, cifar-100-python, cifar-100-binary)"
    )


class FolderImages:
    """The ImageFolder layout: `folder/<class>/<any depth>/<image>`; see `open_images`."""

    def __init__(
        self,
        folder: Path,
        read: Reader,
        classes: Sequence[str] | None = None,
        endings: Collection[str] = EXTENSIONS,
    ) -> None:
        self.folder = folder
        self._read = read
        found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
        if not found:
            raise UserError(f"{folder}: no folders of images in it, one a class")
        if classes is not None and (strange := sorted(set(found) - set(classes))):
            raise UserError(f"{folder}: {_some(strange)}: no class of the network, which knows {_some(classes)}")
        self.classes = tuple(found if classes is None else classes)
        label_of = {name: label for label, name in enumerate(self.classes)}
        names, labels = [], []
        for name in found:
            files = sorted(_files(folder / name, name, endings))
            if not files and classes is None:
                raise UserError(f"{folder / name}: no images in it ({', '.join(sorted(endings))})")
            names += files
            labels += [label_of[name]] * len(files)
        self.labels = np.array(labels, dtype=np.int64)
        # The names are in one array: forked workers share its memory; a million strings would be copied page by page.
        encoded = [os.fsencode(name) for name in names]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._offsets = np.cumsum([0, *map(len, encoded)])
        self.fingerprint = _fingerprint(self.classes, self.labels, self._bytes, self._offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> np.ndarray:
        """Image i, decoded by the reader; raises what that raises."""
        return self._read(self.folder / self._relative(i))

    def name(self, i: int) -> str:
        """Its path."""
        return str(self.folder / self._relative(i))

    def _relative(self, i: int) -> str:
        return os.fsdecode(self._bytes[self._offsets[i] : self._offsets[i + 1]].tobytes())


class ArrayImages:
    """Images of one size in memory: images uint8 (M, H, W, 3), labels int64 (M,), K class names."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        self.images = images
        self.labels = labels
        self.classes = tuple(classes)
        self.fingerprint = _fingerprint(self.classes, labels, images)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, i: int) -> np.ndarray:
        """Image i."""
        return self.images[i]

    def name(self, i: int) -> str:
        """Its number."""
        return f"image {i}"


def _files(folder: Path, prefix: str, endings: Collection[str]) -> Iterator[str]:
    """The images below a folder, each as a path that begins with `prefix`."""
    for entry in os.scandir(folder):
        name = f"{prefix}/{entry.name}"
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(folder / entry.name, name, endings)
        elif os.path.splitext(entry.name)[1].lower() in endings:
            yield name


def _fingerprint(classes: Sequence[str], *arrays: np.ndarray) -> str:
    digest = hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape"))
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "")
