"""Labels of two splits → the classes that one of them has fewer objects of than chance explains.

Splits that were divided at random have as many objects an image of each class, but for chance. Where one class alone is
rarer in one of them, its labels were probably forgotten there.

Shapes: M images, S objects, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class ObjectRates:
    """Of a split: images; objects of each class, int64 (K,), and the sums over the images of their squares."""

    images: int
    objects: np.ndarray
    squares: np.ndarray


class RarerClass(NamedTuple):
    """k: place of the class. first, second: its objects an image in the splits. expected: in the rarer one, by the
    other split and the common factor."""

    k: int
    first: float
    second: float
    expected: float


def object_rates(images: np.ndarray, classes: np.ndarray, image_count: int, class_count: int) -> ObjectRates:
    """Counts of objects, int64 (S,) places of their images and classes.

    >>> object_rates(np.array([0, 0, 2]), np.array([1, 1, 0]), 3, 2)
    ObjectRates(images=3, objects=array([1, 2]), squares=array([1, 4]))
    """
    cells, counts = np.unique(images * class_count + classes, return_counts=True)
    own = cells % max(class_count, 1)
    objects, squares = (
        np.bincount(own, weights, minlength=class_count).astype(np.int64) for weights in (counts, counts**2)
    )
    return ObjectRates(image_count, objects, squares)


def rarer_classes(
    first: ObjectRates, second: ObjectRates, *, fewest: float, share: float, chance: float
) -> list[RarerClass]:
    """The classes of which one split has fewer objects an image than the other, the rarest first.

    The rates are compared after a common factor, by which most classes are more frequent in one of the splits: images
    that show more of everything are no sign of forgotten labels.

    Args:
        fewest: objects of a class in each split, and images of each split, below which nothing is said.
        share: of the expected rate that the rarer one has at most.
        chance: probability that any class at all is returned though the splits were divided at random, about (by the
            normal approximation of the means over images).
    """
    known = np.flatnonzero((first.objects >= fewest) & (second.objects >= fewest)).tolist()
    if min(first.images, second.images) < fewest or not known:
        return []
    least = NormalDist().inv_cdf(1 - chance / 2 / len(known))
    one, other = first.objects / first.images, second.objects / second.images
    # The 1 decides between two classes; of a single class nothing tells rarer labels from emptier images.
    factor = float(np.median([*(one[known] / other[known]), 1.0])) if len(known) > 1 else 1.0
    found = []
    for k in known:
        error = np.sqrt(_variance(first, k) + factor**2 * _variance(second, k))
        rarer, expected = (one[k], factor * other[k]) if one[k] < factor * other[k] else (other[k], one[k] / factor)
        if abs(one[k] - factor * other[k]) >= least * error and rarer <= share * expected:
            found.append(RarerClass(k, float(one[k]), float(other[k]), float(expected)))
    return sorted(found, key=lambda row: min(row.first, row.second) / row.expected)


def _variance(rates: ObjectRates, k: int) -> float:
    """Of the mean over the images of the number of objects of class k."""
    mean = rates.objects[k] / rates.images
    return float(max(rates.squares[k] / rates.images - mean**2, 0.0) / (rates.images - 1))
