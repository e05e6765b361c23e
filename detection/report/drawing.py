"""Images and boxes → images with detections or ground truth drawn on them, or the two side by side.

Shapes: images are uint8 (H, W, 3) RGB; boxes are (B, 4) `(x0, y0, x1, y1)` in pixels of the image; labels are 1..K,
names the K class names. Every function returns a new image and does not change its inputs.

Lines and text grow with the image. An image too small for legible text is first enlarged by a whole factor (see
`enlargement`), so a result may be larger than its input.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from detection.report.captions import PAPER, Color, draw_captions, titled
from detection.report.lettering import caption_of

SMALLEST_LONGER_SIDE = 480  # in a smaller image, a caption would cover its object
_MOST_CAPTIONS = 500  # more would hide the image, and the time to place them grows with the square of their number
_FIRST_COLORS = (
    (0, 110, 255),  # blue
    (255, 136, 0),  # orange
    (0, 168, 84),  # green
    (214, 39, 160),  # magenta
    (0, 190, 214),  # cyan
    (222, 40, 40),  # red
    (245, 205, 0),  # yellow
    (128, 78, 220),  # violet
    (140, 200, 40),  # lime
    (152, 92, 52),  # brown
    (255, 130, 176),  # pink
    (0, 128, 128),  # teal
)


def class_color(label: int) -> Color:
    """RGB of class `label`, the same in every image.

    The first classes get the colours of a fixed table; beyond it the hue advances by the golden ratio of the circle,
    which never repeats a hue, with alternating saturation and value.
    """
    if 1 <= label <= len(_FIRST_COLORS):
        return _FIRST_COLORS[label - 1]
    saturation, value = ((0.90, 0.90), (0.60, 1.00), (0.90, 0.65))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb((label * 0.61803398875) % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray | Sequence[int],
    names: Sequence[str],
    scores: np.ndarray | Sequence[float] | None = None,
) -> np.ndarray:
    """The image with a solid box per detection and a caption of class name and score; the best scores are on top, and
    of more than 500 detections the best 500 have captions.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (B, 4) in pixels of `image`. labels: (B,) in 1..K. names: K class names. scores: (B,) or None.
    """
    texts = [_name(names, int(label)) for label in labels]
    if scores is not None:
        texts = [f"{text} {float(score):.2f}" for text, score in zip(texts, scores, strict=True)]
    return draw_found(image, boxes, texts, [class_color(int(label)) for label in labels], scores)


def draw_found(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    scores: np.ndarray | Sequence[float] | None = None,
) -> np.ndarray:
    """As `draw_detections`, with a text and a colour for each box."""
    canvas, corners = _canvas(image, boxes)
    order = list(range(len(corners)))
    if scores is not None:
        order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist()
    for number in order[::-1]:
        _solid_box(canvas, corners[number], colors[number])
    named = order[:_MOST_CAPTIONS]
    draw_captions(canvas, corners[named], [texts[number] for number in named], [colors[number] for number in named])
    return canvas


def draw_ground_truth(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray | Sequence[int],
    names: Sequence[str],
    crowds: np.ndarray | Sequence[bool] | None = None,
) -> np.ndarray:
    """The image with a dashed box per object and a caption of its class name; crowd regions are hatched.

    Arguments as for `draw_detections`; crowds: bool (B,), or None for none.
    """
    colors = [class_color(int(label)) for label in labels]
    texts = [_name(names, int(label)) for label in labels]
    return draw_objects(image, boxes, texts, colors, crowds)


def draw_objects(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
    crowds: np.ndarray | Sequence[bool] | None = None,
) -> np.ndarray:
    """As `draw_ground_truth`, with a text and a colour for each box."""
    canvas, corners = _canvas(image, boxes)
    crowded = np.zeros(len(corners), dtype=bool) if crowds is None else np.asarray(crowds, dtype=bool)
    for box, color, crowd in zip(corners, colors, crowded, strict=True):
        if crowd:
            _hatch(canvas, box, color)
        _dashed_box(canvas, box, color)
    texts = [text + " (crowd)" * bool(crowd) for text, crowd in zip(texts, crowded, strict=True)]
    draw_captions(canvas, corners, texts, colors)
    return canvas


def side_by_side(
    left: np.ndarray, right: np.ndarray, titles: tuple[str, str] = ("ground truth", "detections")
) -> np.ndarray:
    """Two images side by side, each below its title; the one of lower height is padded at the bottom."""
    gap = max(2, max(left.shape[1], right.shape[1]) // 100)
    height = max(left.shape[0], right.shape[0])
    columns = [titled(image, title, height) for image, title in zip((left, right), titles, strict=True)]
    between = np.full((columns[0].shape[0], gap, 3), PAPER, dtype=np.uint8)
    return np.concatenate([columns[0], between, columns[1]], axis=1)


def enlargement(height: int, width: int) -> int:
    """The whole factor by which an image is enlarged before drawing: 1 if the longer side has 480 pixels or more.

    >>> enlargement(480, 640), enlargement(100, 160), enlargement(1, 1)
    (1, 3, 480)
    """
    return max(1, -(-SMALLEST_LONGER_SIDE // max(height, width)))


def _canvas(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the image to draw on, enlarged where it is too small, and its boxes' outermost pixels within it, int
    (B, 4): (x0, y0, x1, y1), both ends included."""
    height, width = image.shape[:2]
    factor = enlargement(height, width)
    if factor == 1:
        canvas = np.array(image, dtype=np.uint8, order="C")
    else:
        size = (width * factor, height * factor)
        canvas = np.asarray(cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC))
    drawn = np.nan_to_num(np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor)
    limits = np.array([width, height, width, height]) * factor - 1
    corners = np.clip(np.round(drawn - [0, 0, 1, 1]), 0, limits).astype(int)
    corners[:, 2:] = np.maximum(corners[:, :2], corners[:, 2:])
    return canvas, corners


def _line_width(canvas: np.ndarray) -> int:
    return max(2, round(max(canvas.shape[:2]) / 360))


def _solid_box(canvas: np.ndarray, box: np.ndarray, color: Color) -> None:
    x0, y0, x1, y1 = box.tolist()
    cv2.rectangle(canvas, (x0, y0), (x1, y1), color, _line_width(canvas), cv2.LINE_AA)


def _dashed_box(canvas: np.ndarray, box: np.ndarray, color: Color) -> None:
    x0, y0, x1, y1 = box.tolist()
    width = _line_width(canvas)
    dash = 4 * width
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + dash, x1), y), color, width)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + dash, y1)), color, width)


def _hatch(canvas: np.ndarray, box: np.ndarray, color: Color) -> None:
    """Diagonal lines over the box, half transparent."""
    x0, y0, x1, y1 = box.tolist()
    region = canvas[y0 : y1 + 1, x0 : x1 + 1]
    lines = region.copy()
    height, width = region.shape[:2]
    step = 10 * _line_width(canvas)
    for start in range(0, width + height, step):
        cv2.line(lines, (start, 0), (start - height, height), color, _line_width(canvas), cv2.LINE_AA)
    cv2.addWeighted(lines, 0.5, region, 0.5, 0, dst=lines)
    region[:] = lines


def _name(names: Sequence[str], label: int) -> str:
    return caption_of(names[label - 1], label) if 1 <= label <= len(names) else f"label {label}"
