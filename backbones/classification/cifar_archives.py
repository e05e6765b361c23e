"""CIFAR's official archives, unpacked → pixels, labels and class names.

    cifar-10-batches-py    data_batch_1 … data_batch_5, test_batch, batches.meta      (pickles)
    cifar-10-batches-bin   data_batch_1.bin … data_batch_5.bin, test_batch.bin, batches.meta.txt
    cifar-100-python       train, test, meta                                          (pickles)
    cifar-100-binary       train.bin, test.bin, fine_label_names.txt

A row is an image: 3,072 bytes, the planes red, green and blue of 32 × 32 (Krizhevsky, "Learning multiple layers of
features from tiny images", 2009, and www.cs.toronto.edu/~kriz/cifar.html). Of CIFAR-100's two labels the fine one is
taken. The pickles are read without running code from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UserError
from ..weights.formats import restricted_pickle

SIDE = 32
_PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class _Archive:
    """One of the four layouts. `labels`: a pickle's key, or the number of bytes ahead of a row's pixels, the last of
    which is the label."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    classes: str
    labels: str | int


_CIFAR10 = tuple(f"data_batch_{number}" for number in range(1, 6))
_ARCHIVES = {
    "cifar-10-batches-py": _Archive(_CIFAR10, ("test_batch",), "batches.meta", "labels"),
    "cifar-10-batches-bin": _Archive(
        tuple(f"{name}.bin" for name in _CIFAR10), ("test_batch.bin",), "batches.meta.txt", 1
    ),
    "cifar-100-python": _Archive(("train",), ("test",), "meta", "fine_labels"),
    "cifar-100-binary": _Archive(("train.bin",), ("test.bin",), "fine_label_names.txt", 2),
}


def find_archives(root: Path) -> list[Path]:
    """The archives' folders in `root`, or `root` itself if it is one."""
    if root.name in _ARCHIVES and root.is_dir():
        return [root]
    return [root / name for name in _ARCHIVES if (root / name).is_dir()]


def read_archive(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 RGB (M, 32, 32, 3), labels int64 (M,), names of the K classes.

    Raises:
        UserError: an unknown split, or a file that is missing or damaged.
    """
    archive = _ARCHIVES[folder.name]
    if split not in ("train", "test"):
        raise UserError(f"{folder}: CIFAR's splits are train and test, not {split!r}")
    classes = _class_names(folder / archive.classes, archive)
    parts = [_read(folder / name, archive) for name in getattr(archive, split)]
    rows = np.concatenate([rows for rows, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{folder}: labels outside of its {len(classes)} classes; unpack the archive again")
    images = np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
    return images, labels, classes


def _read(file: Path, archive: _Archive) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint8 (M, 3072) and labels int64 (M,) of one file."""
    try:
        if isinstance(archive.labels, int):
            width = archive.labels + _PIXELS
            content = np.fromfile(file, dtype=np.uint8)
            if len(content) == 0 or len(content) % width:
                raise UserError(f"{file}: {len(content)} bytes are no whole rows of {width}; unpack the archive again")
            table = content.reshape(-1, width)
            return table[:, archive.labels :], table[:, archive.labels - 1].astype(np.int64)
        values = _dictionary(file)
        rows, labels = values.get("data"), values.get(archive.labels)
        if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8 or rows.shape[1:] != (_PIXELS,):
            raise UserError(f"{file}: no `data` of rows of {_PIXELS} bytes; unpack the archive again")
        if not isinstance(labels, list) or len(labels) != len(rows) or not all(type(label) is int for label in labels):
            raise UserError(f"{file}: no `{archive.labels}`, a number for each row; unpack the archive again")
        return np.asarray(rows), np.array(labels, dtype=np.int64)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error


def _class_names(file: Path, archive: _Archive) -> tuple[str, ...]:
    try:
        if isinstance(archive.labels, int):
            return tuple(file.read_text(encoding="utf-8").split())
        values = _dictionary(file)
        names = values.get("label_names", values.get("fine_label_names"))
        if not isinstance(names, list):
            raise UserError(f"{file}: no class names in it; unpack the archive again")
        return tuple(map(_text, names))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _dictionary(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file} is missing; unpack the archive again")
    values = restricted_pickle.load(file)
    if not isinstance(values, dict):
        raise UserError(f"{file}: not one of CIFAR's files; unpack the archive again")
    return {_text(key): value for key, value in values.items()}


def _text(value: Any) -> str:
    """A string of a pickle as text: pickles rewritten by Python 3 have bytes for Python 2's strings."""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
