"""Random initial weights of layers."""

from __future__ import annotations

from torch import Tensor, nn


def fill_normal(weight: Tensor, std: float) -> None:
    """Fills a weight with draws from N(0, std²).

    One on the "meta" device, which has no memory for them, is left as it is: PyTorch's `normal_` there loads its
    compiler, which takes a second.
    """
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)
