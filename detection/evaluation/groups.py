"""Array helpers for values that belong to groups: classes, images, or the cells of one class in one image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PAIRS_AT_A_TIME = 500_000  # limits the memory for pairs that do not overlap


def running_sums(values: np.ndarray) -> np.ndarray:
    """Running sums with a 0 in front, int64 (n,) → (n + 1,)."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def stable_order(groups: np.ndarray) -> np.ndarray:
    """Positions by ascending group, those of a group in their order, int64 (n,). groups: int64 (n,), at least 0.

    numpy sorts numbers of 16 bits by counting them, several times faster than larger ones; these are sorted by their
    parts, the lowest first.
    """
    order = np.argsort((groups & 0xFFFF).astype(np.uint16), kind="stable")
    largest = int(groups.max(initial=0)) >> 16
    while largest:
        groups = groups >> 16
        order = order[np.argsort((groups[order] & 0xFFFF).astype(np.uint16), kind="stable")]
        largest >>= 16
    return order


def descending_order(scores: np.ndarray) -> np.ndarray:
    """Positions by descending score, equal scores in their order, int64 (n,). scores: float64 (n,), none of them NaN.

    numpy's fastest sort is not stable: the positions of equal scores are put in order afterwards.
    """
    order = np.argsort(-scores)
    ordered = scores[order]
    is_equal = ordered[1:] == ordered[:-1]
    tied = np.flatnonzero(np.append(is_equal, False) | np.append(False, is_equal))
    if tied.size:
        order[tied] = order[tied][np.lexsort((order[tied], -ordered[tied]))]
    return order


def ranks_within(groups: np.ndarray) -> np.ndarray:
    """The place of each element among those of its group, from 0, int64 (n,). groups: int64 (n,), at least 0.

    >>> ranks_within(np.array([3, 0, 3, 3, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_group = stable_order(groups)
    first = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[by_group] = np.arange(len(groups)) - np.repeat(first, np.diff(first, append=len(groups)))
    return ranks


def pairs_within(groups: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of equal group, in blocks: positions in `groups` (ascending) and in `others`, each (n,).

    groups: int64 (D,) in any order; others: int64 (T,), ascending.

    >>> [(a.tolist(), b.tolist()) for a, b in pairs_within(np.array([1, 0, 1]), np.array([1, 1]))]
    [([0, 0, 2, 2], [0, 1, 0, 1])]
    """
    if not len(others):
        return
    different, starts = np.unique(others, return_index=True)
    place = np.searchsorted(different[1:], groups, side="right")
    first = starts[place]
    counts = np.where(different[place] == groups, np.diff(starts, append=len(others))[place], 0)
    paired = np.flatnonzero(counts)
    first, counts = first[paired], counts[paired]
    sums = running_sums(counts)
    cuts = np.searchsorted(sums, np.arange(_PAIRS_AT_A_TIME, sums[-1], _PAIRS_AT_A_TIME)).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(paired)], strict=True):
        rows = slice(begin, end)
        other = np.arange(sums[begin], sums[end]) + np.repeat(first[rows] - sums[begin:end], counts[rows])
        yield np.repeat(paired[rows], counts[rows]), other
