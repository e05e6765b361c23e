"""ResNeXt-29 for CIFAR: the differences from the ImageNet networks (appendix A of the paper).

    images (N, 3, 32, 32) ─ 3×3, 64 ─ layer1 ─ c2 (N, 256, 32, 32)
                                      layer2 ─ c3 (N, 512, 16, 16)
                                      layer3 ─ c4 (N, 1024, 8, 8) ─ mean over H, W ─ fc ─ logits (N, classes)

Three stages of three blocks: 3 · 3 · 3 layers, the first convolution and the classifier are 29. The rows are in
`variants.VARIANTS` ("resnext29_8x64d", "resnext29_16x64d"), and any "resnext29_<C>x<d>d" is found by its name.
"""

from __future__ import annotations

from torch import nn

from .input_format import InputFormat

# The reference code's figures for CIFAR-10, on pixels of 0-255
CIFAR = InputFormat("rgb", 255.0, (125.3, 123.0, 113.9), (63.0, 62.1, 66.7))


def cifar_stem(in_channels: int, width: int) -> nn.Conv2d:
    """The first convolution: 3×3 at full resolution, with no max-pool after it."""
    return nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
