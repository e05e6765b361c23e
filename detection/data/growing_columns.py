"""Blocks of columns → whole columns, without ever holding both.

Joining the blocks of a table of 30 million rows at the end would need twice its memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SPARE = 32  # a column grows by this part of itself
_WHOLE = (np.int16, np.int32, np.int64)


class GrowingColumns:
    """Columns of a table, extended block by block. Their kinds and widths are those of the first block.

    narrow: whether int64 columns are kept with as few bytes a number as their numbers need: int16, int32 or int64.
    """

    def __init__(self, *, narrow: bool = False) -> None:
        self._columns: list[np.ndarray] = []
        self._rows = 0
        self._narrow = narrow

    def add(self, block: Sequence[np.ndarray]) -> None:
        """Appends one array to each column."""
        if not self._columns:
            self._columns = [np.empty((0, *values.shape[1:]), self._least(values)) for values in block]
        rows = self._rows + len(block[0])
        for number, values in enumerate(block):
            column = self._columns[number]
            if (dtype := np.promote_types(column.dtype, self._least(values))) != column.dtype:
                column = self._columns[number] = column.astype(dtype)
            if rows > len(column):  # memory of this size is moved by its page table, not copied
                column.resize((rows + rows // _SPARE, *column.shape[1:]), refcheck=False)
            column[self._rows : rows] = values
        self._rows = rows

    def finish(self) -> list[np.ndarray]:
        """The columns; they belong to the caller from here on."""
        for column in self._columns:
            column.resize((self._rows, *column.shape[1:]), refcheck=False)
        return self._columns

    def _least(self, values: np.ndarray) -> np.dtype:
        """The narrowest kind of number that a column with these values may have."""
        if not self._narrow or values.dtype != np.int64:
            return values.dtype
        low, high = (int(function(initial=0)) for function in (values.min, values.max))
        return np.dtype(next(one for one in _WHOLE if np.iinfo(one).min <= low and high <= np.iinfo(one).max))
