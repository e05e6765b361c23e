"""Ground-truth boxes → anchor sizes and ratios that reach them, for the levels of a feature pyramid or for one map.

The configuration states sizes per level and ratios that all levels share. The start is a k-means over the boxes' sizes
with 1 − IoU as the distance (Redmon and Farhadi, "YOLO9000", 2017, section 2); it is then refined by random mutations,
of which those that raise the mean best IoU are kept, as YOLOv5's `utils/autoanchor.py` (`kmean_anchors`) does. Unlike
there, the IoU is that with the anchors where they are, at the centres of their cells: a coarse level does not reach
small boxes, whatever the size of its anchors.

Shapes: G boxes (x0, y0, x1, y1) in pixels of the network's input, S sizes over all levels, R ratios (height / width).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_BOXES = 2_000  # at most so many, drawn at random, are fitted to
_GENERATIONS = 400
_SPREAD = 0.12  # standard deviation of a mutation, in logarithms
_LARGEST = 24  # times the stride: the size of the anchors of a level of a pyramid at most (FPN: 8); beyond, the level
# sees too little of the object
_ONE_RATIO = 1.25  # one ratio is enough where four fifths of the boxes are within this factor of the median


def best_iou(
    boxes: np.ndarray, sizes: Sequence[float] | np.ndarray, ratios: Sequence[float] | np.ndarray, strides: Sequence[int]
) -> np.ndarray:
    """The IoU of each box with the anchor that overlaps it most, float64 (G,), as if the maps had no border.

    strides: of the levels; `sizes` holds equally many for each, as `rpn.anchor_sizes` does. An anchor lies on the
    centre of its cell. Of the anchors of one shape on one level the nearest overlaps a box most.

    >>> best_iou(np.array([[0., 0., 16., 16.]]), [16.0], [1.0], [16])
    array([1.])
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    stride = np.repeat(np.asarray(strides, dtype=np.float64), len(sizes) // len(strides))  # (S,)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2  # (G, 2)
    extent = boxes[:, 2:] - boxes[:, :2]
    cells = centre[:, None] / stride[:, None] - 0.5  # (G, S, 2)
    offset = np.abs(cells - np.round(cells)) * stride[:, None]
    root = np.sqrt(np.asarray(ratios, dtype=np.float64))  # (R,)
    size = np.asarray(sizes, dtype=np.float64)[:, None]
    shape = np.stack([size / root, size * root], axis=-1)  # (S, R, 2): width, height
    half = (extent[:, None, None] + shape) / 2 - offset[:, :, None]  # overlap, unless one lies within the other
    overlap = np.minimum(half, np.minimum(extent[:, None, None], shape)).clip(min=0).prod(axis=-1)
    union = extent.prod(axis=-1)[:, None, None] + shape.prod(axis=-1) - overlap
    return (overlap / union).max(axis=(1, 2))


def fit_anchors(
    boxes: np.ndarray, strides: Sequence[int], sizes_per_level: int = 1
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Anchors fitted to the boxes: (sizes of all levels, in whole pixels; ratios, in hundredths), both ascending. The
    same boxes give the same anchors.

    Args:
        boxes: float (G, 4), each with an area.
        strides: of the levels, ascending; one for a network without a pyramid.

    Raises:
        ValueError: there is no box.
    """
    if not len(boxes):
        raise ValueError("anchors are fitted to at least one box")
    random = np.random.default_rng(0)
    boxes = np.asarray(boxes, dtype=np.float64)
    if len(boxes) > _BOXES:
        boxes = boxes[random.choice(len(boxes), _BOXES, replace=False)]
    extent = boxes[:, 2:] - boxes[:, :2]
    ratios = _first_ratios(extent[:, 1] / extent[:, 0])
    levels = np.repeat(strides, sizes_per_level)
    # Two starts: one from the boxes alone, and one with a size for each level as FPN has them, eight times the stride.
    starts = [_first_sizes(np.sqrt(extent.prod(axis=1)), levels), 8.0 * levels * np.geomspace(1, 1.6, len(levels))]
    largest = levels * _LARGEST if len(strides) > 1 else np.full(len(levels), np.inf)
    found_sizes, found_ratios = max(
        (_refine(boxes, sizes, ratios, strides, (levels, largest), random) for sizes in starts),
        key=lambda one: float(best_iou(boxes, one[0], one[1], strides).mean()),
    )
    sizes, ratios = np.maximum(found_sizes.round(), 1.0), found_ratios.clip(0.01, 100).round(2)
    return tuple(sizes.tolist()), tuple(ratios.tolist())


def _first_ratios(ratios: np.ndarray) -> np.ndarray:
    """The median ratio, and where the boxes differ a flatter and a taller one, medians of the outer thirds."""
    middle = np.median(ratios)
    if np.quantile(np.abs(np.log(ratios / middle)), 0.8) < np.log(_ONE_RATIO):
        return np.array([middle])
    return np.quantile(ratios, [1 / 6, 1 / 2, 5 / 6])


def _first_sizes(boxes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """k-means of the sizes of boxes with the IoU of concentric squares, ascending; no size below its level's stride."""
    centres = np.quantile(boxes, (np.arange(len(levels)) + 0.5) / len(levels))
    for _ in range(30):
        iou = (np.minimum(boxes[:, None], centres) / np.maximum(boxes[:, None], centres)) ** 2
        own = iou.argmax(axis=1)
        moved = [np.median(boxes[own == i]) if (own == i).any() else centre for i, centre in enumerate(centres)]
        if np.allclose(moved, centres):
            break
        centres = np.array(moved)
    return np.maximum(np.sort(centres), levels)


def _refine(
    boxes: np.ndarray,
    sizes: np.ndarray,
    ratios: np.ndarray,
    strides: Sequence[int],
    bounds: tuple[np.ndarray, np.ndarray],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and ratios after mutations, of which those that raise the mean best IoU were kept. Sizes ascend, within
    bounds that ascend."""
    sizes = sizes.clip(*bounds)
    best = float(best_iou(boxes, sizes, ratios, strides).mean())
    count = len(sizes)
    values = np.concatenate([sizes, ratios])
    for _ in range(_GENERATIONS):
        mutated = random.random(len(values)) < 0.5
        changed = values * np.exp(random.normal(0, _SPREAD, len(values)) * mutated)
        new_sizes, new_ratios = np.sort(changed[:count]).clip(*bounds), np.sort(changed[count:])
        value = float(best_iou(boxes, new_sizes, new_ratios, strides).mean())
        if value > best:
            best, values = value, np.concatenate([new_sizes, new_ratios])
    return values[:count], values[count:]
