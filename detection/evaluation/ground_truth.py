"""The ground truth of an evaluation, with which detections are compared.

Shapes: M images, S objects, K categories. Boxes are COCO's `(x, y, w, h)` here, in pixels of the original image, as the
label file states them: the figures are those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class GroundTruth:
    """Objects and images of an evaluation.

    image_ids: int64 (M,), ascending; category_ids: int64 (K,), ascending; category_names: K names in that order.
    boxes: float64 (S, 4) `(x, y, w, h)`; areas: float64 (S,), the annotation's own `area` (COCO sizes an object by it,
    not by its box); crowds: bool (S,); object_image_ids, object_category_ids: int64 (S,). The objects of an image are
    in the file's order.
    notes: what was repaired or left out, in words with counts. source: its name in messages.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    category_names: list[str]
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    object_image_ids: np.ndarray
    object_category_ids: np.ndarray
    notes: list[str] = field(default_factory=list)
    source: str = "the annotations"
