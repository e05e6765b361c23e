"""A random generator → one image of the demo: shapes of six classes on a plain background, with exact boxes.

The constants at the top set how difficult the images are. Images are uint8 RGB
(H, W, 3).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

CLASSES = ("disc", "square", "triangle", "star", "ring", "cross")
LONG_SIDE = (192, 256)  # pixels of an image
SHORT_SIDE = (144, 192)
PORTRAIT_SHARE = 0.2  # of the images are higher than wide
EMPTY_SHARE = 0.06  # of the images show no shape
CROWD_SHARE = 0.1  # of the images hold a crowd: many tiny shapes of one class, annotated as one region
SHAPES = (1, 6)  # in an image
SHAPE_SIDE = (24, 100)  # pixels across; lengths in between are the more common
RING_HOLE = 0.55  # of a ring's radius
CROWD_SHAPES = (12, 24)
CROWD_SHAPE_SIDE = (7, 11)
CROWD_SIDE = (36, 72)
VISIBLE_SHARE = 0.65  # of each shape, at least, stays visible where others overlap it or the image ends
CLUTTER = (0, 5)  # faint lines and patches in the background
HUE_SPREAD = 25.0  # degrees about a class's own hue; the hues of two classes are 60 apart
SATURATION = (0.45, 1.0)
VALUE = (0.35, 1.0)
CONTRAST = 70.0  # least distance of a shape's colour from the background's, in RGB steps
EDGE_SHARE = 0.1  # of a shape's side may lie beyond the image's edge
ATTEMPTS = 30  # places tried for a shape before it is left out


@dataclass
class DrawnObject:
    """label: position in `CLASSES`; mask: bool (H, W), its visible pixels; whole: its area in pixels without occlusion;
    crowd: whether it is a region of many shapes.
    """

    label: int
    mask: np.ndarray
    whole: float
    crowd: bool = False


@dataclass
class Drawing:
    """image uint8 RGB (H, W, 3) and its objects, from back to front."""

    image: np.ndarray
    objects: list[DrawnObject] = field(default_factory=list)


def draw_image(random: np.random.Generator, *, classes: Sequence[str] = CLASSES, crowds: bool = True) -> Drawing:
    """Draws one image; every choice comes from `random`.

    classes: of `CLASSES`, those that are drawn. crowds: whether some images hold a crowd.
    """
    labels = [CLASSES.index(name) for name in classes]
    height, width = int(random.integers(*SHORT_SIDE, endpoint=True)), int(random.integers(*LONG_SIDE, endpoint=True))
    if random.random() < PORTRAIT_SHARE:
        height, width = width, height
    ground = random.uniform(60, 200) + random.uniform(-25, 25, 3)
    drawing = Drawing(_background(random, height, width, ground))
    if random.random() >= EMPTY_SHARE:
        if random.random() < CROWD_SHARE and crowds:
            _add_crowd(random, drawing, ground, labels)
        for _ in range(random.integers(*SHAPES, endpoint=True)):
            _add_shape(random, drawing, ground, labels)
    grain = random.normal(0, random.uniform(1, 5), (height, width, 1))
    drawing.image = np.clip(np.rint(drawing.image + grain), 0, 255).astype(np.uint8)
    return drawing


def _background(random: np.random.Generator, height: int, width: int, ground: np.ndarray) -> np.ndarray:
    """A soft, faintly cluttered ground around the colour `ground`, float32 (H, W, 3)."""
    clouds = random.normal(0, random.uniform(2, 14), (4, 5, 3)).astype(np.float32)
    image = ground.astype(np.float32) + cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(random.integers(*CLUTTER, endpoint=True)):
        layer = np.zeros((height, width), dtype=np.uint8)
        start, end = random.integers(0, (width, height), (2, 2)).tolist()
        if random.random() < 0.6:
            cv2.line(layer, start, end, 255, int(random.integers(1, 4)), cv2.LINE_AA)
        else:
            layer[min(start[1], end[1]) : max(start[1], end[1]), min(start[0], end[0]) : max(start[0], end[0])] = 255
        shift = random.uniform(8, 22) * random.choice([-1, 1])
        image += layer[:, :, None].astype(np.float32) / 255 * np.float32(shift)
    return image


def _add_shape(random: np.random.Generator, drawing: Drawing, ground: np.ndarray, labels: Sequence[int]) -> None:
    """Adds a shape in front of the others, where enough of it and of each of them stays visible, if there is room."""
    height, width = drawing.image.shape[:2]
    label = labels[int(random.integers(len(labels)))]
    middling = (random.random() + random.random()) / 2
    side = SHAPE_SIDE[0] * (SHAPE_SIDE[1] / SHAPE_SIDE[0]) ** middling
    margin = side * (0.5 - EDGE_SHARE)
    angle = random.uniform(0, 2 * math.pi)
    whole = _whole_area(label, side)
    for _ in range(ATTEMPTS):
        x, y = random.uniform(margin, width - margin), random.uniform(margin, height - margin)
        cover = _cover(label, x, y, side, angle, height, width)
        mask = cover > 127
        if mask.sum() < VISIBLE_SHARE * whole or not all(_stays_in_sight(drawn, mask) for drawn in drawing.objects):
            continue
        for drawn in drawing.objects:
            drawn.mask &= ~mask
        _paint(random, drawing.image, cover, label, side, ground)
        drawing.objects.append(DrawnObject(label, mask, whole))
        return


def _stays_in_sight(drawn: DrawnObject, front: np.ndarray) -> bool:
    """Whether enough of an object stays visible behind a new one; no part of a crowd may be hidden."""
    if not (drawn.mask & front).any():
        return True
    return not drawn.crowd and int((drawn.mask & ~front).sum()) >= VISIBLE_SHARE * drawn.whole


def _add_crowd(random: np.random.Generator, drawing: Drawing, ground: np.ndarray, labels: Sequence[int]) -> None:
    """Puts many tiny shapes of one class close together, as one crowd region."""
    height, width = drawing.image.shape[:2]
    label = labels[int(random.integers(len(labels)))]
    sides = random.uniform(*CROWD_SIDE, 2)
    corner = random.uniform(4, (width - sides[0] - 4, height - sides[1] - 4))
    together = np.zeros((height, width), dtype=bool)
    for _ in range(random.integers(*CROWD_SHAPES, endpoint=True)):
        x, y = corner + random.random(2) * sides
        side = random.uniform(*CROWD_SHAPE_SIDE)
        cover = _cover(label, x, y, side, random.uniform(0, 2 * math.pi), height, width)
        _paint(random, drawing.image, cover, label, side, ground)
        together |= cover > 127
    drawing.objects.append(DrawnObject(label, together, float(together.sum()), crowd=True))


def _outline(label: int, angle: float) -> np.ndarray:
    """Corners (n, 2) of a shape of unit circumradius, turned by `angle`."""
    name = CLASSES[label]
    if name in ("disc", "ring"):
        turns, radii = np.arange(64) / 64, np.ones(64)
    elif name == "square":
        turns, radii = np.arange(4) / 4, np.ones(4)
    elif name == "triangle":
        turns, radii = np.arange(3) / 3, np.ones(3)
    elif name == "star":
        turns, radii = np.arange(10) / 10, np.tile([1.0, 0.42], 5)
    else:  # cross; its arms are about a third as wide as the cross
        arm, notch = math.atan(0.36) / (2 * math.pi), 1 / 8
        turns = np.concatenate([[quarter / 4 - arm, quarter / 4 + arm, quarter / 4 + notch] for quarter in range(4)])
        radii = np.tile([1.0, 1.0, 0.36 * math.sqrt(2) / math.hypot(1, 0.36)], 4)
    directions = 2 * math.pi * turns + angle
    return np.stack([radii * np.cos(directions), radii * np.sin(directions)], axis=1)


def _cover(label: int, x: float, y: float, side: float, angle: float, height: int, width: int) -> np.ndarray:
    """Coverage of each pixel by a shape, uint8 (H, W), 255 for full; `side` is the circumscribed circle's diameter."""
    cover = np.zeros((height, width), dtype=np.uint8)
    outline = _outline(label, angle) * (side / 2)
    for scale, value in ((1.0, 255), (RING_HOLE, 0)):
        if value or CLASSES[label] == "ring":
            corners = np.rint((outline * scale + (x - 0.5, y - 0.5)) * 256).astype(np.int32)  # 8 binary places
            cv2.fillPoly(cover, [corners], value, cv2.LINE_AA, 8)
    return cover


def _whole_area(label: int, side: float) -> float:
    """The area of a shape without occlusion, by the shoelace formula."""
    x, y = (_outline(label, 0.0) * (side / 2)).T
    area = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return area * (1 - RING_HOLE**2 if CLASSES[label] == "ring" else 1)


def _paint(
    random: np.random.Generator, image: np.ndarray, cover: np.ndarray, label: int, side: float, ground: np.ndarray
) -> None:
    """Fills the covered pixels with a new texture of the class's hue."""
    x, y, width, height = cv2.boundingRect(cover)
    part = image[y : y + height, x : x + width]
    share = cover[y : y + height, x : x + width, None].astype(np.float32) / 255
    part += share * (_texture(random, height, width, label, side, ground) - part)


def _texture(
    random: np.random.Generator, height: int, width: int, label: int, side: float, ground: np.ndarray
) -> np.ndarray:
    """A texture that contrasts with the background: plain, striped, dotted, noisy or shaded, float32 (H, W, 3)."""
    first = _colour(random, label, ground)
    second = np.clip(first + random.uniform(25, 60) * random.choice([-1, 1]) + random.uniform(-10, 10, 3), 0, 255)
    if np.linalg.norm(second - ground) < CONTRAST:
        second = np.clip(2 * first - second, 0, 255)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    kind = random.integers(5)
    angle = random.uniform(0, math.pi)
    across = x * math.cos(angle) + y * math.sin(angle)
    along = y * math.cos(angle) - x * math.sin(angle)
    period = max(4.0, side / random.uniform(3, 7))
    if kind == 0:
        share = np.zeros((height, width), dtype=np.float32)
    elif kind == 1:
        share = (np.sin(across * (2 * math.pi / period)) > 0).astype(np.float32)
    elif kind == 2:
        waves = np.sin(across * (2 * math.pi / period)) * np.sin(along * (2 * math.pi / period))
        share = (waves > 0.3).astype(np.float32)
    elif kind == 3:
        share = random.random((height, width), dtype=np.float32)
    else:
        share = 0.5 + 0.5 * np.sin(across * (math.pi / max(side, 24.0)) + np.float32(random.uniform(0, 2 * math.pi)))
    return (first + share[:, :, None] * (second - first)).astype(np.float32)


def _colour(random: np.random.Generator, label: int, ground: np.ndarray) -> np.ndarray:
    """A colour (3,) of the class's hue that differs from the ground's by more than `CONTRAST`."""
    while True:
        hue = (label / len(CLASSES) + random.uniform(-HUE_SPREAD, HUE_SPREAD) / 360) % 1
        saturation, value = random.uniform(*SATURATION), random.uniform(*VALUE)
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        if np.linalg.norm(colour - ground) > CONTRAST * 1.2:
            return colour
