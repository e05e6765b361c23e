"""Images → groups of nearly equal ones: scaled, compressed anew, brightened, or taken a moment apart.

Each image is reduced to a thumbnail of grey levels. Its hash says of each two neighbouring cells which one is brighter
(difference hash: N. Krawetz, "Kind of Like That", 2013; here along rows and along columns). Two images are similar if
their hashes differ in at most `MOST_BITS` of `BITS` bits and their thumbnails correlate.

Hashes that differ in at most d bits agree wholly in at least one of d + 1 bands. Only images that agree in a band are
compared, so that all similar pairs among 100,000 images are found without comparing each with each.

Shapes: M images.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

SIDE = 16  # of a thumbnail, in cells
MOST_BITS = 6
_CELLS = SIDE // 2  # along a side of the map that is hashed
BITS = 2 * _CELLS * (_CELLS - 1)
_BANDS = MOST_BITS + 1  # of BITS / _BANDS = 16 bits
_LEAST_CORRELATION = 0.98
_LEAST_CONTRAST = 3.0  # grey levels, standard deviation; the hash of a flatter image is noise
_PAIRS_AT_ONCE = 1 << 20


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) → grey levels, uint8 (SIDE, SIDE)."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))


def similar_groups(thumbnails: np.ndarray) -> list[list[int]]:
    """Thumbnails uint8 (M, SIDE, SIDE) → groups of two or more similar images, each ascending, the largest group first.

    Within a group each image is similar to at least one other. Images without contrast, and thumbnails of zeros, which
    stand for images that could not be read, are in no group.

    >>> ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    >>> similar_groups(np.stack([ramp, ramp.T, np.zeros_like(ramp), ramp // 2 + 9]))
    [[0, 3]]
    """
    grey = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    contrast = grey.std(axis=1)
    rows = np.flatnonzero(contrast >= _LEAST_CONTRAST)
    if len(rows) == 0:
        return []
    grey = (grey[rows] - grey[rows].mean(axis=1, keepdims=True)) / contrast[rows, None]
    bands = difference_hashes(thumbnails[rows])
    leader = np.arange(len(rows))  # of each image's group, by way of other leaders

    def leader_of(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = int(leader[one])
        return one

    # Equal hashes, as those of a still camera's images, are taken together first: pairs among them would be too many.
    distinct, first, which = np.unique(bands, axis=0, return_index=True, return_inverse=True)
    for one, other in _agreeing(grey, np.arange(len(rows)), first[which.ravel()]):
        leader[leader_of(one)] = leader_of(other)
    for left, right in _close_pairs(distinct):
        for one, other in _agreeing(grey, first[left], first[right]):
            leader[leader_of(one)] = leader_of(other)
    groups: dict[int, list[int]] = {}
    for one in range(len(rows)):
        groups.setdefault(leader_of(one), []).append(int(rows[one]))
    found = [group for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: (-len(group), group))


def difference_hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails (M, SIDE, SIDE) → hashes, uint16 (M, BITS / 16): the bands."""
    cells = thumbnails.astype(np.uint16).reshape(-1, _CELLS, 2, _CELLS, 2).sum(axis=(2, 4))
    bits = np.concatenate(
        [
            (cells[:, :, 1:] > cells[:, :, :-1]).reshape(len(cells), -1),
            (cells[:, 1:] > cells[:, :-1]).reshape(len(cells), -1),
        ],
        axis=1,
    )
    # Neighbouring bits are alike in many images: each band has bits from all over the image, so that few agree in it.
    spread = bits.reshape(len(bits), -1, _BANDS).transpose(0, 2, 1)
    return np.packbits(spread, axis=2).reshape(len(bits), -1).view(np.uint16)


def _close_pairs(bands: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of rows of distinct hashes that differ in at most MOST_BITS bits; a pair may come repeatedly."""
    for band in range(_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        values = bands[order, band]
        end = np.searchsorted(values, values, side="right")  # of the images that agree in the band
        following = end - np.arange(len(order)) - 1  # partners of each image: those after it
        start = 0
        while start < len(order):  # as many images as have about _PAIRS_AT_ONCE partners
            sums = np.cumsum(following[start:])
            count = max(1, int(np.searchsorted(sums, _PAIRS_AT_ONCE)))
            own = following[start : start + count]
            left = np.repeat(np.arange(start, start + len(own)), own)
            right = np.arange(len(left)) - np.repeat(np.cumsum(own) - own, own) + left + 1
            left, right = order[left], order[right]
            close = np.bitwise_count(bands[left] ^ bands[right]).sum(axis=1) <= MOST_BITS
            yield left[close], right[close]
            start += count


def _agreeing(grey: np.ndarray, left: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """The pairs whose thumbnails (of mean 0 and standard deviation 1) correlate."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(left), 1 << 16):
        one, other = left[start : start + (1 << 16)], right[start : start + (1 << 16)]
        agree = np.einsum("pc,pc->p", grey[one], grey[other]) / grey.shape[1] >= _LEAST_CORRELATION
        agree &= one != other
        found += zip(one[agree].tolist(), other[agree].tolist(), strict=True)
    return found
