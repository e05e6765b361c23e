"""Blocks of columns → whole columns, without ever holding both.

Joining the blocks of a table of 30 million rows at the end would need twice its memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SPARE = 8  # a column grows by this part of itself


class GrowingColumns:
    """Columns of a table, extended block by block. Their kinds and widths are those of the first block."""

    def __init__(self) -> None:
        self._columns: list[np.ndarray] = []
        self._rows = 0

    def add(self, block: Sequence[np.ndarray]) -> None:
        """Appends one array to each column."""
        if not self._columns:
            self._columns = [np.empty((0, *values.shape[1:]), values.dtype) for values in block]
        rows = self._rows + len(block[0])
        for column, values in zip(self._columns, block, strict=True):
            if rows > len(column):  # memory of this size is moved by its page table, not copied
                column.resize((rows + rows // _SPARE, *column.shape[1:]), refcheck=False)
            column[self._rows : rows] = values
        self._rows = rows

    def finish(self) -> list[np.ndarray]:
        """The columns; they belong to the caller from here on."""
        for column in self._columns:
            column.resize((self._rows, *column.shape[1:]), refcheck=False)
        return self._columns
