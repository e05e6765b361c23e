"""Rows and positions → the rows at these positions, batched."""

from __future__ import annotations

from torch import Tensor


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (N, B, c) at positions (N, S) of each image: (N, S, c)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
