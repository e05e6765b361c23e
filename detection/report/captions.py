"""Boxes and texts → captions on plates of the classes' colours, placed where they hide little of the objects.

Shapes: a canvas is uint8 (H, W, 3) RGB and is drawn on; boxes are int (B, 4), their outermost pixels (x0, y0, x1, y1),
both ends included.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from detection.report.fonts import line_height
from detection.report.lettering import text_mask

Color = tuple[int, int, int]

INK = (24, 24, 27)
PAPER = (250, 250, 250)
_SMALLEST_TEXT = 11  # pixels; capitals are then 8 high
_LINES = 52  # of text that the longer side of an image would hold
_SEE_THROUGH = 0.6  # opacity of a plate that lies on an object
_PLATE_WEIGHT = 4.0  # cost of covering a caption, relative to an object


def draw_captions(canvas: np.ndarray, boxes: np.ndarray, texts: Sequence[str], colors: Sequence[Color]) -> None:
    """Draws each box's text on a plate of its colour; where plates overlap, the first is on top. An empty text has no
    plate.

    A plate stands above its box, below it, beside it, or within it, at the place where it hides the smallest share of
    the objects and of the earlier captions. On an object it is transparent.
    """
    size = text_size(canvas)
    masks = [text_mask(text, size) for text in texts]
    plates = _places(canvas.shape[:2], boxes, [mask.shape[1] + 2 * _margin(size) for mask in masks], line_height(size))
    for number in (place for place in reversed(range(len(texts))) if texts[place]):
        on_object = bool(_common(plates[number], boxes).any())
        _draw_plate(canvas, plates[number], masks[number], colors[number], _SEE_THROUGH if on_object else 1.0)


def text_size(canvas: np.ndarray) -> int:
    """The size in pixels of the text on an image of this size."""
    return max(_SMALLEST_TEXT, round(max(canvas.shape[:2]) / _LINES))


def titled(image: np.ndarray, title: str, height: int) -> np.ndarray:
    """The image below a bar with its title, padded at the bottom to `height`."""
    size = text_size(image)
    mask = text_mask(title, size)
    bar = line_height(size) + _margin(size)
    column = np.full((bar + height, image.shape[1], 3), PAPER, dtype=np.uint8)
    left = max(_margin(size), (image.shape[1] - mask.shape[1]) // 2)
    _write(column[:, left:], mask, INK)
    column[bar : bar + image.shape[0]] = image
    return column


def _margin(size: int) -> int:
    """The distance in pixels between the edge of a plate and its text."""
    return max(1, round(size / 6))


def _places(canvas_size: tuple[int, int], boxes: np.ndarray, widths: Sequence[int], height: int) -> np.ndarray:
    """The plate of each box, int (B, 4), in the boxes' format."""
    plates = np.zeros((len(boxes), 4), dtype=int)
    areas = (boxes[:, 2:] + 1 - boxes[:, :2]).prod(axis=1)
    for number, ((x0, y0, x1, y1), width) in enumerate(zip(boxes.tolist(), widths, strict=True)):
        right = x1 + 1 - width
        above, below, lowest = y0 - height, y1 + 1, y1 + 1 - height
        corners = [(x0, above), (right, above), (x0, below), (right, below), (x1 + 1, y0), (x0 - width, y0)]
        corners += [(x0, y0), (right, y0), (x0, lowest)]
        plate = np.array([width, height])
        inside = np.clip(corners, 0, np.maximum(np.array(canvas_size[::-1]) - plate, 0))
        tried = np.concatenate([inside, inside + plate - 1], axis=1)
        hidden = (_common(tried[:, None], boxes) / areas).sum(axis=1)
        hidden += _PLATE_WEIGHT * _common(tried[:, None], plates[:number]).sum(axis=1) / (width * height)
        plates[number] = tried[hidden.argmin()]
    return plates


def _common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The number of pixels that boxes have in common; their last dimension is 4, the others broadcast."""
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]) + 1
    return sides.clip(0).prod(axis=-1)


def _draw_plate(canvas: np.ndarray, plate: np.ndarray, mask: np.ndarray, color: Color, opacity: float) -> None:
    left, top, right, bottom = plate.tolist()
    region = canvas[top : bottom + 1, left : right + 1]
    full = np.full(region.shape, color, dtype=np.uint8)
    region[:] = cv2.addWeighted(full, opacity, np.ascontiguousarray(region), 1 - opacity, 0)
    text = region[:, (right + 1 - left - mask.shape[1]) // 2 :]
    if opacity < 1:  # the letters keep their contrast on any background
        _write(text, cv2.dilate(mask, np.ones((3, 3), np.uint8)), color)
    _write(text, mask, _contrasting(color))


def _write(region: np.ndarray, mask: np.ndarray, color: Color) -> None:
    """Draws a colour where the mask is, within the common part of both."""
    height, width = min(region.shape[0], mask.shape[0]), min(region.shape[1], mask.shape[1])
    region = region[:height, :width]
    share = mask[:height, :width, None].astype(np.float32) / 255
    region[:] = np.rint(region + share * (np.array(color, dtype=np.float32) - region))


def _contrasting(color: Color) -> Color:
    """Dark or light, whichever contrasts more with `color` (luma as in ITU-R BT.601)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return INK if luma > 140 else PAPER
