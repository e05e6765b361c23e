"""The memory order of maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from detection.kernels.memory_order import contiguous, contiguous_by_transposing


@pytest.mark.parametrize("form", [contiguous, contiguous_by_transposing])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_contiguous_maps_have_the_same_numbers_and_gradient(
    images: int, channels_last: bool, form: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    maps = torch.randn(images, 6, 7, 5, dtype=torch.float64)
    if channels_last:
        maps = maps.to(memory_format=torch.channels_last)
    maps.requires_grad_()
    result = form(maps)
    assert result.is_contiguous()
    assert torch.equal(result, maps)
    weights = torch.randn_like(result)
    (gradient,) = torch.autograd.grad((result * weights).sum(), maps)
    assert torch.equal(gradient, weights)


def test_maps_in_order_are_not_copied() -> None:
    maps = torch.randn(2, 3, 4, 5)
    assert contiguous(maps) is maps
    assert contiguous_by_transposing(maps) is maps
