from __future__ import annotations

import doctest

from backbones.common import units


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(units) == (0, 2)
    assert [units.in_bytes(count) for count in (0, 1000, 1.5e6, 7.89e9, 2e13)] == [
        "0 bytes", "1.0 kB", "1.5 MB", "7.9 GB", "20000.0 GB",
    ]  # fmt: skip
