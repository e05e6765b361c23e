"""Array helpers for values that belong to groups: classes, images, or the cells of one class in one image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_PAIRS_AT_A_TIME = 500_000  # limits the memory for pairs that do not overlap


def running_sums(values: np.ndarray) -> np.ndarray:
    """Running sums with a 0 in front, int64 (n,) → (n + 1,)."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def places_among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The place of each id in `known`, −1 if it is not there, int64 (n,). ids: (n,), whole numbers; known: int64 (m,),
    ascending.

    >>> places_among(np.array([7.0, 3, 4]), np.array([3, 7])).tolist()
    [1, 0, -1]
    """
    if not len(known):
        return np.full(len(ids), -1)
    ids = ids.astype(np.int64)
    first, last = int(known[0]), int(known[-1])
    if last - first < 2 * (len(known) + len(ids)):  # a table of all ids between takes a tenth of a search's time
        table = np.full(last - first + 3, -1)
        table[known - first + 1] = np.arange(len(known))
        places: np.ndarray = table[np.clip(ids, first - 1, last + 1) - (first - 1)]
        return places
    places = np.searchsorted(known[1:], ids, side="right")
    return np.where(known[places] == ids, places, -1)


def stable_order(groups: np.ndarray) -> np.ndarray:
    """Positions by ascending group, those of a group in their order, int64 (n,). groups: int64 or uint64 (n,), at least
    0.

    numpy sorts numbers of 16 bits by counting them, several times faster than larger ones; these are sorted by their
    parts, the lowest first.
    """
    parts = np.ascontiguousarray(groups).astype("<u8", copy=False).view("<u2").reshape(-1, 4)
    order = np.argsort(parts[:, 0], kind="stable")
    for part in range(1, (int(groups.max(initial=0)).bit_length() + 15) // 16):
        order = order[np.argsort(parts[:, part][order], kind="stable")]
    return order


def descending_order(scores: np.ndarray) -> np.ndarray:
    """Positions by descending score, equal scores in their order, int64 (n,). scores: float64 (n,), finite.

    The bits of a float, read as a whole number, have its order. Scores that a network gave, float32 in 0–1, differ in
    few of them, so that two or three parts are sorted (see `stable_order`): in a third of the time that numpy's own
    sort takes, which besides is not stable.
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    bits = (scores + 0.0).view(np.int64)  # -0.0 becomes 0.0
    bits = bits ^ (bits >> 63 & np.int64(2**63 - 1))  # of negative numbers, larger magnitudes come first
    below = (bits.max() - bits).view(np.uint64)
    used = int(np.bitwise_or.reduce(below))
    return stable_order(below >> np.uint64((used & -used).bit_length() - 1 if used else 0))


def ranks_within(groups: np.ndarray) -> np.ndarray:
    """The place of each element among those of its group, from 0, int64 (n,). groups: int64 (n,), at least 0.

    >>> ranks_within(np.array([3, 0, 3, 3, 0])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_group = stable_order(groups)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[by_group] = ranks_in_order(groups[by_group])
    return ranks


def ranks_in_order(groups: np.ndarray) -> np.ndarray:
    """`ranks_within` of groups that are sorted."""
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(first, np.diff(first, append=len(groups)))


def pairs_within(groups: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of equal group, in blocks: positions in `groups` (ascending) and in `others`, each (n,).

    groups: int64 (D,) in any order; others: int64 (T,), at least 0, ascending.

    >>> [(a.tolist(), b.tolist()) for a, b in pairs_within(np.array([1, 0, 1]), np.array([1, 1]))]
    [([0, 0, 2, 2], [0, 1, 0, 1])]
    """
    if not len(others):
        return
    starts = np.flatnonzero(np.diff(others, prepend=-1))
    different = others[starts]
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
