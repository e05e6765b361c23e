"""The block itself: without a shortcut, it is its transform alone."""

from __future__ import annotations

import torch

from backbones.blocks import Bottleneck


def test_no_residual_block_is_the_transform_alone() -> None:
    block = Bottleneck(12, 8, 12, 4, residual=False).eval()
    torch.nn.init.normal_(block.bn3.bias)
    assert block.downsample is None
    x = torch.randn(1, 12, 5, 5)
    torch.testing.assert_close(block(x), torch.relu(block.transform(x)))
    assert (block(x) > 0).any()
