"""A set of images that comes in one piece → which of them are for testing.

Shapes: M images, P pairs of an image and a class that it has objects of.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

from detection.data.tables import Tables


def part_of(tables: Tables, which: Literal["train", "test"], share: float, seed: int) -> np.ndarray:
    """Which images belong to the part, bool (M,); every image belongs to exactly one of the two.

    Stratified by class, in the order of Sechidis et al., "On the stratification of multi-label data" (2011): from the
    rarest class (by images) on, so many of its images are moved to the test part as its share lacks there, then images
    without objects, then any. Images whose other classes have their share already come last, and one that would take a
    class's last image from the training part is moved only if the share of all images cannot be reached without it.
    Otherwise a hash of seed and file name decides: the part is
    the same for any order of the labels, wherever the set lies, and on any machine.
    """
    count = len(tables.names)
    order = _order(tables, seed)
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    image_of, class_of, class_order = _pairs(tables)
    images_of_class = np.bincount(class_of, minlength=len(class_order))
    starts = np.searchsorted(image_of, np.arange(count + 1))
    targets = np.floor(share * images_of_class + 0.5).astype(np.int64)
    in_test = np.zeros(len(class_order), dtype=np.int64)  # images of each class
    is_test = np.zeros(count, dtype=bool)

    def move(images: np.ndarray, wanted: int, *, last: bool = False) -> None:
        candidates = images[~is_test[images]]
        full = np.bincount(image_of, weights=(in_test >= targets)[class_of], minlength=count)
        lost = np.bincount(image_of, weights=(in_test + 1 >= images_of_class)[class_of], minlength=count)
        for i in candidates[np.lexsort((rank[candidates], full[candidates], lost[candidates]))].tolist():
            if wanted <= 0:
                return
            own = class_of[starts[i] : starts[i + 1]]
            if last or (in_test[own] + 1 < images_of_class[own]).all():
                is_test[i] = True
                in_test[own] += 1
                wanted -= 1

    for number in class_order:
        move(image_of[class_of == number], int(targets[number] - in_test[number]))
    without = np.flatnonzero(np.diff(starts) == 0)
    move(without, int(share * len(without) + 0.5))
    everything, wanted = np.arange(count), min(count - 1, max(1, int(share * count + 0.5)))
    move(everything, wanted - int(is_test.sum()))
    move(everything, wanted - int(is_test.sum()), last=True)
    return is_test if which == "test" else ~is_test


def _order(tables: Tables, seed: int) -> list[int]:
    """The images in an order that depends on seed and file names alone."""
    names = [name.replace("\\", "/").rsplit("/", 1)[-1] for name in tables.names]
    keys = [hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    return sorted(range(len(names)), key=lambda i: (keys[i], tables.names[i], int(tables.image_ids[i])))


def _pairs(tables: Tables) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """(rows of images (P,), ascending; their classes (P,) from 0 on; the classes, the one with fewest images first)."""
    ids, rows = np.unique(tables.image_ids, return_index=True)
    position = np.searchsorted(ids, tables.image_of).clip(max=max(0, len(ids) - 1))
    listed = ids[position] == tables.image_of if len(ids) else np.zeros(len(tables.image_of), dtype=bool)
    numbers, classes = np.unique(tables.category_of[listed], return_inverse=True)
    pairs = np.unique(np.stack([rows[position[listed]], classes], axis=1), axis=0)
    names = dict(tables.categories)
    counts = np.bincount(pairs[:, 1], minlength=len(numbers))
    order = sorted(range(len(numbers)), key=lambda one: (counts[one], names.get(int(numbers[one]), ""), one))
    return pairs[:, 0], pairs[:, 1], order
