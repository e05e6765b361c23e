"""Positions that are spread evenly."""

from __future__ import annotations

from detection.common.evenly_spread import evenly_spread


def test_both_ends_are_among_them_and_none_occurs_twice() -> None:
    assert evenly_spread(10, 3).tolist() == [0, 4, 9]
    assert evenly_spread(3, 100).tolist() == evenly_spread(3, None).tolist() == [0, 1, 2]
    assert evenly_spread(0, 5).tolist() == []
