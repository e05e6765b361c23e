"""The content of a label file as flat tables: the result of every reader in `detection.data.readers`.

Shapes: M images, T annotations. Each reader removes its format's own conventions. Relations between the tables (an
annotation's image, a box and its image's size) are checked in `detection.data.repairs`, the same for all formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MISSING = np.iinfo(np.int64).min  # stands for an absent or unusable whole number
LARGEST_AREA = 1e10  # the end of COCO's widest area range; a larger object would be in no range


@dataclass
class Tables:
    """The content of a label file, in its order.

    image_ids, heights, widths int64 (M,): a size of 0 stands for an absent one. names: M file names.
    annotation_ids (`MISSING` if absent), image_of, category_of int16, int32 or int64 (T,): the ids of each annotation,
    its image and its category. boxes float64 (T, 4) as x, y, width, height in pixels; crowds bool (T,); areas float64
    (T,). categories: (id, name) as the file lists them. place_of: row of an annotation → where it stands, for messages;
    None: annotations are named by their ids. image_id_of: row of an annotation → the id of its image, where `image_of`
    is no longer held; else None.
    """

    image_ids: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    names: list[str]
    annotation_ids: np.ndarray
    image_of: np.ndarray
    category_of: np.ndarray
    boxes: np.ndarray
    crowds: np.ndarray
    areas: np.ndarray
    categories: list[tuple[int, str]]
    place_of: Callable[[int], str] | None = None
    image_id_of: Callable[[int], int] | None = None

    def image_id(self, row: int) -> int:
        """The id of an annotation's image."""
        return int(self.image_of[row] if self.image_id_of is None else self.image_id_of(row))

    def of_images(self, kept: np.ndarray) -> Tables:
        """The content without the images that are not kept, bool (M,), and without their annotations. Annotations of
        images that are not listed stay."""
        left_out = np.setdiff1d(self.image_ids[~kept], self.image_ids[kept])
        rows = np.flatnonzero(~np.isin(self.image_of, left_out))
        place_of = self.place_of
        return dataclasses.replace(
            self,
            image_ids=self.image_ids[kept],
            heights=self.heights[kept],
            widths=self.widths[kept],
            names=[self.names[i] for i in np.flatnonzero(kept).tolist()],
            annotation_ids=self.annotation_ids[rows],
            image_of=self.image_of[rows],
            category_of=self.category_of[rows],
            boxes=self.boxes[rows],
            crowds=self.crowds[rows],
            areas=self.areas[rows],
            place_of=None if place_of is None else lambda row: place_of(int(rows[row])),
        )
