"""Long tables computed part by part, so that intermediate arrays stay small.

Shapes: T rows of a table, n of them chosen. Rows are held as int32 where there are fewer than 2³¹ of a table.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

ROWS = 1 << 16  # of a part


def parts_of(rows: int) -> Iterator[slice]:
    """Slices of at most `ROWS` rows that cover so many."""
    return (slice(begin, min(begin + ROWS, rows)) for begin in range(0, rows, ROWS))


def taken(values: np.ndarray, rows: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """`values[rows]`, as `dtype` if given. NumPy would first convert all rows to int64."""
    result = np.empty((len(rows), *values.shape[1:]), values.dtype if dtype is None else dtype)
    for part in parts_of(len(rows)):
        result[part] = values[rows[part]]
    return result


def by_image(
    kept: np.ndarray, image_rows: np.ndarray, images: int, order: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(the rows of the annotations `kept`, grouped by image, within an image sorted by `order` if given, else in the
    file's order, (n,); the offset at which each image's rows begin, int64 (images + 1,)).

    kept bool (T,); image_rows (T,): the image of each kept annotation, from 0 on; order (T,).

    >>> by_image(np.array([True, True, False, True]), np.array([1, 0, 0, 1]), 2, order=np.array([4, 3, 2, 1]))
    (array([1, 3, 0], dtype=int32), array([0, 1, 3]))
    """
    kind = np.int32 if len(kept) <= np.iinfo(np.int32).max else np.int64
    if order is not None and not (order[1:] >= order[:-1]).all():
        rows = np.argsort(order, kind="stable").astype(kind)
        rows = rows[kept[rows]]
    else:
        rows = np.arange(len(kept), dtype=kind) if kept.all() else np.flatnonzero(kept).astype(kind)
    # Whole numbers are sorted in place; a sort of rows would take three times the memory.
    keys = np.empty(len(rows), dtype=np.int64)
    for part in parts_of(len(rows)):
        keys[part] = (image_rows[rows[part]].astype(np.int64) << 32) | np.arange(part.start, part.stop)
    keys.sort()
    offsets = np.searchsorted(keys, np.arange(images + 1) << 32).astype(np.int64)
    for part in parts_of(len(rows)):
        keys[part] = rows[keys[part] & ((1 << 32) - 1)]
    del rows
    return keys.astype(kind), offsets
