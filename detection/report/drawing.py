"""Images and boxes → images to look at: detections, ground truth, the two side by side.

Shapes: images are uint8 (H, W, 3) RGB; boxes are (B, 4) `(x0, y0, x1, y1)` in pixels of the image; labels are 1..K,
names the K class names. Every function returns a new image and leaves its inputs alone.

Lines and text grow with the image. An image too small for legible text is first enlarged by a whole factor (see
`enlargement`), so a result may be larger than its input.
"""

from __future__ import annotations

import colorsys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import atomic_write

SMALLEST_LONGER_SIDE = 480  # below it a class name and score would cover the objects they tell of
_FONT = cv2.FONT_HERSHEY_SIMPLEX
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
_INK = (24, 24, 27)
_PAPER = (250, 250, 250)


def class_color(label: int) -> tuple[int, int, int]:
    """RGB of class `label`, the same in every image.

    The first classes get the colours of a fixed table; beyond it the hue advances by the golden ratio of the circle,
    which never comes back to the same place, in alternating saturation and value.
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
    """The image with a solid box a detection, captioned by class name and score; the best-scored lie on top.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (B, 4) in pixels of `image`. labels: (B,) in 1..K. names: K class names. scores: (B,) or None.
    """
    canvas, factor = _canvas(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor
    texts = [_name(names, int(label)) for label in labels]
    order = np.arange(len(boxes))
    if scores is not None:
        texts = [f"{text} {float(score):.2f}" for text, score in zip(texts, scores, strict=True)]
        order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    colors = [class_color(int(label)) for label in labels]
    for number in order[::-1]:
        _solid_box(canvas, boxes[number], colors[number])
    _draw_captions(canvas, [(boxes[number], texts[number], colors[number]) for number in order])
    return canvas


def draw_ground_truth(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray | Sequence[int],
    names: Sequence[str],
    crowds: np.ndarray | Sequence[bool] | None = None,
) -> np.ndarray:
    """The image with a dashed box an object, captioned by class name; crowd regions are hatched.

    Arguments as for `draw_detections`; crowds: bool (B,), or None for none.
    """
    canvas, factor = _canvas(image)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factor
    crowded = np.zeros(len(boxes), dtype=bool) if crowds is None else np.asarray(crowds, dtype=bool)
    colors = [class_color(int(label)) for label in labels]
    for box, color, crowd in zip(boxes, colors, crowded, strict=True):
        if crowd:
            _hatch(canvas, box, color)
        _dashed_box(canvas, box, color)
    texts = [_name(names, int(label)) + " (crowd)" * bool(crowd) for label, crowd in zip(labels, crowded, strict=True)]
    _draw_captions(canvas, list(zip(boxes, texts, colors, strict=True)))
    return canvas


def side_by_side(
    left: np.ndarray, right: np.ndarray, titles: tuple[str, str] = ("ground truth", "detections")
) -> np.ndarray:
    """Two images beside each other, each under its title; the lower one is filled up at the bottom."""
    gap = max(2, max(left.shape[1], right.shape[1]) // 100)
    height = max(left.shape[0], right.shape[0])
    columns = [_titled(image, title, height) for image, title in zip((left, right), titles, strict=True)]
    between = np.full((columns[0].shape[0], gap, 3), _PAPER, dtype=np.uint8)
    return np.concatenate([columns[0], between, columns[1]], axis=1)


def save_image(path: Path | str, image: np.ndarray) -> None:
    """Writes a uint8 (H, W, 3) RGB image in the format of the name's ending; the file is whole or not there.

    Raises:
        UserError: OpenCV cannot write a format of that name.
        CannotWrite: the folder cannot be written.
    """
    path = Path(path)
    ending = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if ending in (".jpg", ".jpeg") else []
    try:
        done, encoded = cv2.imencode(ending, np.ascontiguousarray(image[:, :, ::-1]), options)
    except cv2.error as error:
        raise UserError(f"{path}: no image format goes by the ending {path.suffix!r}; use .jpg or .png") from error
    if not done:
        raise UserError(f"{path}: an image of {image.shape[1]} × {image.shape[0]} does not go into this format")
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())


def enlargement(height: int, width: int) -> int:
    """The whole factor by which an image is enlarged before it is drawn on: 1 from 480 pixels (longer side) on.

    >>> enlargement(480, 640), enlargement(100, 160), enlargement(1, 1)
    (1, 3, 480)
    """
    return max(1, -(-SMALLEST_LONGER_SIDE // max(height, width)))


def _canvas(image: np.ndarray) -> tuple[np.ndarray, int]:
    """A copy of the image to draw on, enlarged where it is too small, and the factor."""
    height, width = image.shape[:2]
    factor = enlargement(height, width)
    if factor == 1:
        return np.array(image, dtype=np.uint8, order="C"), 1
    size = (width * factor, height * factor)
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC), factor


def _line_width(canvas: np.ndarray) -> int:
    return max(1, round(max(canvas.shape[:2]) / 360))


def _font_scale(canvas: np.ndarray) -> float:
    # Hershey capitals are about 21 pixels high at scale 1; the floor keeps them at 8 pixels
    return max(0.38, max(canvas.shape[:2]) / 1500)


def _corners(canvas: np.ndarray, box: np.ndarray) -> tuple[int, int, int, int]:
    """The box's outermost pixels, within the canvas: (x0, y0, x1, y1), both ends included."""
    height, width = canvas.shape[:2]
    limits = np.array([width - 1, height - 1, width - 1, height - 1])
    x0, y0, x1, y1 = np.clip(np.round(np.nan_to_num(box) - [0, 0, 1, 1]), 0, limits).astype(int).tolist()
    return x0, y0, max(x0, x1), max(y0, y1)


def _contrasting(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Dark or light, whichever reads better on `color` (luma as in ITU-R BT.601)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return _INK if luma > 140 else _PAPER


def _solid_box(canvas: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = _corners(canvas, box)
    cv2.rectangle(canvas, (x0, y0), (x1, y1), color, _line_width(canvas), cv2.LINE_AA)


def _dashed_box(canvas: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = _corners(canvas, box)
    width = _line_width(canvas)
    dash = 4 * width
    for x in range(x0, x1 + 1, 2 * dash):
        for y in (y0, y1):
            cv2.line(canvas, (x, y), (min(x + dash, x1), y), color, width)
    for y in range(y0, y1 + 1, 2 * dash):
        for x in (x0, x1):
            cv2.line(canvas, (x, y), (x, min(y + dash, y1)), color, width)


def _hatch(canvas: np.ndarray, box: np.ndarray, color: tuple[int, int, int]) -> None:
    """Diagonal lines over the box, half transparent."""
    x0, y0, x1, y1 = _corners(canvas, box)
    region = canvas[y0 : y1 + 1, x0 : x1 + 1]
    lines = region.copy()
    height, width = region.shape[:2]
    step = 10 * _line_width(canvas)
    for start in range(0, width + height, step):
        cv2.line(lines, (start, 0), (start - height, height), color, _line_width(canvas), cv2.LINE_AA)
    cv2.addWeighted(lines, 0.5, region, 0.5, 0, dst=lines)
    region[:] = lines


def _draw_captions(canvas: np.ndarray, captions: Sequence[tuple[np.ndarray, str, tuple[int, int, int]]]) -> None:
    """Box, text and colour of each caption → text on a plate of that colour at the box, the first where they compete.

    A caption stands on the box's upper edge if there is room, otherwise at the first place along the box's edges that
    no earlier caption takes; where all are taken, at the least covered one, beneath the earlier captions.
    """
    height, width = canvas.shape[:2]
    plates = np.zeros((len(captions), 4))
    sizes = [_text_size(canvas, text) for _, text, _ in captions]
    for number, ((box, _, _), (text_width, plate_height, _, margin, _)) in enumerate(zip(captions, sizes, strict=True)):
        x0, y0, x1, y1 = _corners(canvas, box)
        plate = np.array([text_width + 2 * margin, plate_height])
        right = x1 + 1 - plate[0]
        places = [(x0, y0 - plate_height), (x0, y0), (right, y0 - plate_height), (right, y0)]
        places += [(x0, y1 + 1), (x0, y1 + 1 - plate_height)]
        inside = np.clip(places, 0, np.maximum(np.array([width, height]) - plate, 0))
        if y0 < plate_height:
            inside = np.roll(inside, -1, axis=0)  # no room above
        corners = np.concatenate([inside, inside + plate], axis=1)[:, None]
        common = np.minimum(corners[..., 2:], plates[:number, 2:]) - np.maximum(corners[..., :2], plates[:number, :2])
        covered = np.clip(common, 0, None).prod(axis=-1).sum(axis=-1)
        plates[number] = corners[covered.argmin(), 0]
    for number in reversed(range(len(captions))):
        _, text, color = captions[number]
        _, _, baseline, margin, thickness = sizes[number]
        left, top, right, bottom = plates[number].astype(int).tolist()
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
        origin = (left + margin, bottom - margin - baseline)
        cv2.putText(canvas, text, origin, _FONT, _font_scale(canvas), _contrasting(color), thickness, cv2.LINE_AA)


def _text_size(canvas: np.ndarray, text: str) -> tuple[int, int, int, int, int]:
    """Width of the text, height of its plate, baseline, margin, stroke."""
    scale = _font_scale(canvas)
    thickness = max(1, round(1.6 * scale))
    margin = max(1, round(4 * scale))
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    (_, height), baseline = cv2.getTextSize("Ag", _FONT, scale, thickness)  # OpenCV 5 measures the very letters
    return width, height + baseline + 2 * margin, baseline, margin, thickness


def _titled(image: np.ndarray, title: str, height: int) -> np.ndarray:
    """The image under a bar with its title, filled up to `height` below."""
    title = _printable(title)
    text_width, bar, baseline, margin, thickness = _text_size(image, title)
    column = np.full((bar + height, image.shape[1], 3), _PAPER, dtype=np.uint8)
    origin = (max(margin, (image.shape[1] - text_width) // 2), bar - margin - baseline)
    cv2.putText(column, title, origin, _FONT, _font_scale(image), _INK, thickness, cv2.LINE_AA)
    column[bar : bar + image.shape[0]] = image
    return column


def _name(names: Sequence[str], label: int) -> str:
    return _printable(names[label - 1]) if 1 <= label <= len(names) else f"label {label}"


def _printable(text: str) -> str:
    """The text in the letters that OpenCV's font has: accents are taken off, other scripts become question marks."""
    letters = [letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter)]
    return "".join(letters).encode("ascii", "replace").decode().replace("\n", " ")
