"""The widths and heights of boxes → anchor sizes and ratios that fit them.

The RPN's anchors are all pairs of a size and a ratio. From a start on, each box is assigned the pair of highest IoU
(both about one centre), and each size and ratio moves to the geometric mean of its boxes: k-means, with IoU as in
YOLO9000 (Redmon and Farhadi 2017, section 2), on such a grid. Of two starts and all rounds, the grid with the highest
mean of the best IoU, less the share of boxes below 0.5, is taken: k-means alone gives up the few that are far from
most.

Shapes: T boxes; S sizes; R ratios.
"""

from __future__ import annotations

import numpy as np

_MOST = 20_000  # boxes that are looked at; more do not change the third digit
_ROUNDS = 50
_REACHED = 0.5


def shape_iou(sides: np.ndarray, sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """IoU of boxes with anchors about the same centre, (T, S, R) in 0–1.

    Args:
        sides: (T, 2) widths and heights. sizes: (S,), square roots of areas. ratios: (R,), height / width.
    """
    width, height = sizes[:, None] / np.sqrt(ratios), sizes[:, None] * np.sqrt(ratios)
    common = np.minimum(sides[:, 0, None, None], width) * np.minimum(sides[:, 1, None, None], height)
    area = sides.prod(axis=1)[:, None, None] + width * height
    return np.asarray(common / (area - common))


def fit_anchors(sides: np.ndarray, sizes: int, ratios: int) -> tuple[list[float], list[float]]:
    """(sizes, ratios), both ascending, for boxes in pixels of the network's input; the same for the same boxes.

    Args:
        sides: (T, 2) widths and heights, above 0; T at least 1. sizes, ratios: how many of each.

    >>> fit_anchors(np.array([[10.0, 10.0]] * 9 + [[40.0, 40.0]] * 9), 2, 1)
    ([10.0, 40.0], [1.0])
    """
    sides = np.asarray(sides, dtype=np.float64)
    if len(sides) > _MOST:
        sides = sides[np.linspace(0, len(sides) - 1, _MOST).astype(np.int64)]
    length, ratio = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    starts = [
        [_quantiles(length, sizes), _quantiles(ratio, ratios)],
        [_spread(length, sizes), _quantiles(ratio, ratios)],
    ]
    _, best_sizes, best_ratios = max((_moved(sides, start) for start in starts), key=lambda fit: fit[0])
    return [float(f"{value:.3g}") for value in best_sizes], [float(f"{value:.3g}") for value in best_ratios]


def _moved(sides: np.ndarray, found: list[np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    """(the score, sizes and ratios, ascending) of the best grid of the rounds from a start on."""
    length, ratio = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    best, kept = -np.inf, found
    for _ in range(_ROUNDS):
        overlaps = shape_iou(sides, *found).reshape(len(sides), -1)
        most = overlaps.max(axis=1)
        score = float(most.mean() - (most < _REACHED).mean())
        if score > best:
            best, kept = score, found
        size, shape = np.divmod(overlaps.argmax(axis=1), len(found[1]))
        moved = [_means(length, size, found[0]), _means(ratio, shape, found[1])]
        if all(np.allclose(one, other) for one, other in zip(moved, found, strict=True)):
            break
        found = moved
    return best, np.sort(kept[0]), np.sort(kept[1])


def _quantiles(values: np.ndarray, count: int) -> np.ndarray:
    return np.asarray(np.exp(np.quantile(np.log(values), (np.arange(count) + 0.5) / count)))


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """Values in equal proportions to each other, over nearly the whole range: also for a few boxes far from most."""
    low, high = np.quantile(values, (0.03, 0.97))
    return np.asarray(low * (high / low) ** ((np.arange(count) + 0.5) / count))


def _means(values: np.ndarray, group: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The geometric mean of each group's values; that of an empty group is as before."""
    counts = np.bincount(group, minlength=len(before))
    sums = np.bincount(group, np.log(values), minlength=len(before))
    return np.where(counts > 0, np.exp(sums / np.maximum(counts, 1)), before)
