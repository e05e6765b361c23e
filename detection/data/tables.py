"""The content of a label file as flat tables: the result of every reader in `detection.data.readers`.

Shapes: M images, T annotations. Each reader removes its format's own conventions. Relations between the tables (an
annotation's image, a box and its image's size) are checked in `detection.data.repairs`, the same for all formats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MISSING = np.iinfo(np.int64).min  # stands for an absent or unusable whole number
LARGEST_AREA = 1e10  # the end of COCO's widest area range; a larger object would be in no range


@dataclass
class Tables:
    """The content of a label file, in its order.

    image_ids, heights, widths int64 (M,): a size of 0 stands for an absent one. names: M file names.
    annotation_ids (`MISSING` if absent), image_of, category_of int64 (T,): the ids of each annotation, its image and
    its category. boxes float64 (T, 4) as x, y, width, height in pixels; crowds bool (T,); areas float64 (T,).
    categories: (id, name) as the file lists them.
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
