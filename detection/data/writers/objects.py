"""An index → what a writer writes of it.

Shapes: M images, T objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from detection.data.index import DatasetIndex


@dataclass(frozen=True)
class Objects:
    """offsets int64 (M + 1,): the objects of image i are rows offsets[i] to offsets[i + 1] of boxes float64 (T, 4) as
    x, y, width, height, labels int64 (T,) from 1 on, crowds bool (T,) and areas float64 (T,)."""

    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray

    def of_image(self, i: int) -> slice:
        """The rows of image i."""
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))


@dataclass(frozen=True)
class Split:
    """A split to be written. name: that of its folder or file. files: the images' names in the new data set."""

    name: str
    index: DatasetIndex
    objects: Objects
    files: list[str]


def as_stated(index: DatasetIndex) -> Objects:
    """The objects as the labels state them: boxes are not clipped, and those without an area are included.

    Raises:
        ValueError: the index was loaded for training.
    """
    stated = index.require_stated()
    return Objects(stated.offsets, stated.boxes, stated.labels, stated.crowds, stated.areas)


def as_repaired(index: DatasetIndex) -> Objects:
    """The objects that a training gets: boxes within their images."""
    # The decimals that a float32 was read from, so that no digits appear that no file had.
    corners = index.boxes.astype(str).astype(np.float64).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    return Objects(index.offsets, boxes, index.labels, index.crowds, index.areas)


def new_names(names: list[str], taken: set[str]) -> list[str]:
    """File names without folders, no two of which differ only in capitals or ending; `taken` receives their stems.

    >>> new_names(["a/x.jpg", "b/x.jpg", "x.png"], set())
    ['x.jpg', 'b_x.jpg', 'x_png.png']
    """
    found = []
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        joined = "_".join(part for part in path.with_suffix("").parts if part not in ("/", "..")) or "image"
        stems = [path.stem, joined, f"{joined}_{path.suffix[1:]}"]
        stems += [f"{joined}_{number}" for number in range(2, 2 + len(names))]
        stem = next(stem for stem in stems if stem.lower() not in taken)
        taken.add(stem.lower())
        found.append(stem + path.suffix)
    return found


def short_number(value: float) -> str:
    """A number with as few digits as give it back: 3 for 3.0.

    >>> [short_number(value) for value in (3.0, 0.25, 1e-7)]
    ['3', '0.25', '0.0000001']
    """
    return np.format_float_positional(value, trim="-")
