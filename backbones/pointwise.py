"""1×1 convolutions on a CPU → the same ones, computed by oneDNN with one thread too.

With one thread and fewer than 16 images, PyTorch computes a float32 1×1 convolution of stride 1 with a matrix product
of its own in place of oneDNN's kernel (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp), which takes up to twice
the time. A dilated convolution goes to oneDNN whatever the number of threads, and dilation has no effect on a kernel of
one pixel.

Shapes: x (N, C, H, W), weight (O, C, 1, 1), y (N, O, H, W).
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

_LEAST_VALUES = 20_480  # one image of fewer values goes to PyTorch's own kernels, where dilation costs time


class PointwiseConvolution(nn.Conv2d):
    """nn.Conv2d with a 1×1 kernel of stride 1, computed by `pointwise_conv2d`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return pointwise_conv2d(input, weight, bias)


def onednn_pointwise_convolutions(module: nn.Module) -> nn.Module:
    """Turns every 1×1 convolution of stride 1 under `module` into a `PointwiseConvolution`, in place; returns `module`.

    Parameters, names and state dict stay the same. Subclasses of nn.Conv2d are not changed.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_pointwise(part):
            part.__class__ = PointwiseConvolution
    return module


@torch.fx.wrap
def pointwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y, equal to torch.nn.functional.conv2d's up to rounding, its gradients too; on a CPU by oneDNN."""
    return functional.conv2d(x, weight, bias, dilation=2 if _is_for_onednn(x) else 1)


def _is_for_onednn(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    # Without oneDNN, PyTorch's kernel for dilated convolutions is slower than the one that it would replace.
    return torch.backends.mkldnn.is_available() and (len(x) > 1 or x.numel() > _LEAST_VALUES)


def _is_pointwise(convolution: nn.Conv2d) -> bool:
    numbers = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.groups)
    return numbers == ((1, 1), (1, 1), (0, 0), 1)
