"""A set of images that comes in one piece → which of them are for testing.

Shapes: M images, T annotations.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from detection.data.tables import Tables


def part_of(tables: Tables, which: Literal["train", "test"], share: float, seed: int) -> np.ndarray:
    """Which images belong to the part, bool (M,); every image belongs to exactly one of the two.

    Stratified by class: the classes are gone through from the rarest (by images) on, and of the images with one that
    are not assigned yet so many become test images that the class has its share (Sechidis et al., "On the
    stratification of multi-label data", 2011, in its greedy form); those without objects come last. A class of a
    single image stays in training. Which images, is decided by a hash of seed and file name: equal for any order of the
    labels, wherever the set lies, and on any machine.
    """
    count = len(tables.names)
    last_parts = [name.replace("\\", "/").rsplit("/", 1)[-1] for name in tables.names]
    keys = [hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest() for name in last_parts]
    order = sorted(range(count), key=lambda i: (keys[i], tables.names[i], int(tables.image_ids[i])))
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    is_test, is_open = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    groups = [*_images_by_class(tables), np.arange(count)]
    for images in groups:
        wanted = int(share * len(images) + 0.5) - int(is_test[images].sum())
        free = images[is_open[images]]
        free = free[np.argsort(rank[free])]
        is_test[free[: max(0, wanted)]] = True
        is_open[images] = False
    if count > 1 and not is_test.any():
        is_test[order[0]] = True
    return is_test if which == "test" else ~is_test


def _images_by_class(tables: Tables) -> list[np.ndarray]:
    """The rows of the images with an object of each class, the class with fewest images first."""
    ids, rows = np.unique(tables.image_ids, return_index=True)
    if not len(ids) or not len(tables.image_of):
        return []
    position = np.searchsorted(ids, tables.image_of).clip(max=len(ids) - 1)
    listed = ids[position] == tables.image_of
    pairs = np.unique(np.stack([tables.category_of[listed], rows[position[listed]]], axis=1), axis=0)
    classes, starts = np.unique(pairs[:, 0], return_index=True)
    groups = np.split(pairs[:, 1], starts[1:]) if len(classes) else []
    by_class = dict(zip(classes.tolist(), groups, strict=True))
    names = dict(tables.categories)
    return sorted(by_class.values(), key=len) if not names else [
        by_class[number]
        for number in sorted(by_class, key=lambda number: (len(by_class[number]), names.get(number, "")))
    ]  # fmt: skip
