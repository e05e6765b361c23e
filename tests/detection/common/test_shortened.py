"""Values in messages: small ones as they are, others by their beginning."""

from __future__ import annotations

import pytest
import torch

from detection.common.shortened import short


@pytest.mark.parametrize("value", [3, -2.5, True, None, "text", [1, "a"], {"a": 1}, float("nan")])
def test_small_ones_are_as_python_writes_them(value: object) -> None:
    assert short(value) == repr(value)


def test_large_ones_are_short() -> None:
    nested: list[object] = [1]
    for _ in range(60):
        nested = [nested] * 50
    for value in (10**5000, [10**5000], "x" * 10**7, nested, {str(i): nested for i in range(1000)}, torch.zeros(10**6)):
        assert len(short(value)) < 600
    assert short(torch.zeros(())) == "a Tensor"
