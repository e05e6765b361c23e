"""An image with its boxes and proposals → the same, augmented and resized; a pure function of one seed.

Shapes: image uint8 RGB (H, W, 3); boxes float32 (G, 4); proposals float32 (R, 4). The order is: the albumentations
pipeline if there is one, at the image's own size; then the resize; then flips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from detection.common.seeds import hash63, uniform
from detection.data.albumentations_pipeline import Pipeline

# Each random draw has its own number, so that switching one augmentation on or off does not change the others.
_PIPELINE, _SIDE, _HORIZONTAL, _VERTICAL, _SCALE, _TOP, _LEFT = range(7)


class Augmented(NamedTuple):
    """image uint8 (h, w, 3); boxes float32 (G', 4); kept bool (G,): which of the input boxes remain; proposals float32
    (R', 4) or None; scale (vertical, horizontal): network pixels per image pixel.
    """

    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    proposals: np.ndarray | None
    scale: tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """(image, boxes, proposals, seed) → `Augmented`. Evaluation uses one shorter side and no flips.

    shorter_sides: lengths in pixels; one is drawn for each image.
    longer_side_max: the image is resized to a smaller size if its longer side would exceed this (as in py-faster-rcnn
    and torchvision).
    horizontal_flip, vertical_flip: probabilities.
    scale_jitter: large-scale jitter instead of the two lengths above: a range of factors of the largest size that fits
    into a square of `scale_jitter_side`, of which one is drawn; a random window of at most this square is taken.
    Source: Ghiasi et al., "Simple Copy-Paste" (2021), section 3; torchvision's `ScaleJitter` and `FixedSizeCrop`.
    albumentations: the pipeline's transforms, each {"name": …, argument: value, …}; see `albumentations_pipeline.py`.

    Raises:
        UserError: the albumentations pipeline cannot be built.
        ValueError: a length or probability out of range.
    """

    shorter_sides: Sequence[int]
    longer_side_max: int
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    albumentations: Sequence[Mapping[str, Any]] | None = None
    scale_jitter: tuple[float, float] | None = None
    scale_jitter_side: int = 1024
    pipeline: Pipeline | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.shorter_sides or min(self.shorter_sides) < 1 or self.longer_side_max < 1:
            raise ValueError(
                f"sides must be at least 1 pixel: shorter {list(self.shorter_sides)}, longer {self.longer_side_max}"
            )
        if not (0 <= self.horizontal_flip <= 1 and 0 <= self.vertical_flip <= 1):
            raise ValueError(f"flip probabilities must lie in 0–1: {self.horizontal_flip}, {self.vertical_flip}")
        if self.scale_jitter is not None and not (
            0 < self.scale_jitter[0] <= self.scale_jitter[1] and self.scale_jitter_side >= 1
        ):
            raise ValueError(
                f"scale jitter needs a range above 0 and a side, not {self.scale_jitter}, {self.scale_jitter_side}"
            )
        if self.albumentations:
            object.__setattr__(self, "pipeline", Pipeline(self.albumentations))

    def __call__(self, image: np.ndarray, boxes: np.ndarray, proposals: np.ndarray | None, seed: int) -> Augmented:
        """Augments one image; its boxes and proposals must lie within it. seed: determines all random choices."""
        kept = np.ones(len(boxes), dtype=bool)
        if self.pipeline is not None:
            image, boxes, kept, proposals = self.pipeline(image, boxes, proposals, hash63(seed, _PIPELINE))
        height, width = image.shape[:2]
        new_height, new_width = self.resized(height, width, seed)
        if (new_height, new_width) != (height, width):
            image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        scale = (new_height / height, new_width / width)
        boxes = scale_boxes(boxes, scale, (new_height, new_width))
        proposals = None if proposals is None else scale_boxes(proposals, scale, (new_height, new_width))
        if self.scale_jitter is not None:
            image, boxes, proposals, kept = self._window(image, boxes, proposals, kept, seed)
            new_height, new_width = image.shape[:2]
        horizontal = uniform(seed, _HORIZONTAL) < self.horizontal_flip
        vertical = uniform(seed, _VERTICAL) < self.vertical_flip
        if horizontal or vertical:
            image = cv2.flip(image, -1 if horizontal and vertical else int(horizontal))

        def flip(rows: np.ndarray) -> np.ndarray:
            return flip_boxes(rows, (new_height, new_width), horizontal, vertical)

        return Augmented(image, flip(boxes), kept, None if proposals is None else flip(proposals), scale)

    def target_size(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """(height, width) after the resize and, with scale jitter, of the window."""
        height, width = self.resized(height, width, seed)
        most = max(height, width) if self.scale_jitter is None else self.scale_jitter_side
        return min(height, most), min(width, most)

    def _window(
        self, image: np.ndarray, boxes: np.ndarray, proposals: np.ndarray | None, kept: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
        """A random window of at most the jitter's square, the parts of boxes and proposals in it, and `kept` without
        the boxes that lie outside."""
        height, width = (min(side, self.scale_jitter_side) for side in image.shape[:2])
        top = int(uniform(seed, _TOP) * (image.shape[0] - height + 1))
        left = int(uniform(seed, _LEFT) * (image.shape[1] - width + 1))
        boxes, inside = crop_boxes(boxes, top, left, (height, width))
        kept = kept.copy()
        kept[np.flatnonzero(kept)[~inside]] = False
        if proposals is not None:
            proposals = crop_boxes(proposals, top, left, (height, width))[0]
        window = np.ascontiguousarray(image[top : top + height, left : left + width])
        return window, boxes, proposals, kept

    def resized(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """(height, width) after the resize, rounded to the nearest pixel, at least 1."""
        if self.scale_jitter is not None:
            low, high = self.scale_jitter
            factor = (low + uniform(seed, _SCALE) * (high - low)) * self.scale_jitter_side / max(height, width)
            return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
        side = self.shorter_sides[int(uniform(seed, _SIDE) * len(self.shorter_sides))]
        factor = min(side / min(height, width), self.longer_side_max / max(height, width))
        return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def scale_boxes(boxes: np.ndarray, scale: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """Boxes (R, 4) after a resize by (vertical, horizontal) `scale` to `size` (height, width): the edge stays the edge.

    >>> scale_boxes(np.array([[1, 2, 3, 4]], dtype=np.float32), (2.0, 0.5), (8, 2)).tolist()
    [[0.5, 4.0, 1.5, 8.0]]
    """
    vertical, horizontal = scale
    scaled = boxes.astype(np.float64) * (horizontal, vertical, horizontal, vertical)
    return np.minimum(scaled, (size[1], size[0], size[1], size[0])).astype(np.float32)


def crop_boxes(boxes: np.ndarray, top: int, left: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The parts of boxes (R, 4) in a window of `size` (height, width), (R', 4), and bool (R,): which boxes have one.

    >>> crop_boxes(np.array([[1, 2, 8, 9], [0, 0, 2, 2]], dtype=np.float32), 2, 3, (4, 4))[0].tolist()
    [[0.0, 0.0, 4.0, 4.0]]
    """
    moved = boxes - np.array([left, top, left, top], dtype=np.float32)
    clipped = np.clip(moved, 0, np.array([size[1], size[0], size[1], size[0]], dtype=np.float32))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    return clipped[inside], inside


def flip_boxes(boxes: np.ndarray, size: tuple[int, int], horizontal: bool, vertical: bool) -> np.ndarray:
    """Boxes (R, 4) in an image of `size` (height, width) after a flip: columns [x0, x1) become [W − x1, W − x0).

    >>> flip_boxes(np.array([[0, 1, 3, 4]], dtype=np.float32), (6, 10), True, False).tolist()
    [[7.0, 1.0, 10.0, 4.0]]
    """
    height, width = size
    flipped = boxes.copy()
    if horizontal:
        flipped[:, 0], flipped[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    if vertical:
        flipped[:, 1], flipped[:, 3] = height - boxes[:, 3], height - boxes[:, 1]
    return flipped
