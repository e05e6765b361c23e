"""A dense 3×3 convolution by Winograd's minimal filtering, for inference on a CPU.

Four outputs that lie together, 2 × 2, take 36 products of an input and a weight when computed one by one. Sums and
differences of the sixteen inputs under them, multiplied by as many sums of weights that are made once, take 16; and all
tiles of the map together make these sixteen matrix products. The RPN's 3×3 over 1024 channels takes 0.6 of the time
(benchmarks/detector.py, "RPN head"), and, while it works, ten times the map's memory.

Shapes: N images, I input and O output channels, H × W map, T tiles of 2 × 2 outputs in all images.
Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", section 4.1, F(2×2, 3×3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# What the three weights along an axis are multiplied by; the matrix G of the paper.
_WEIGHT_SUMS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class WinogradConvolution(nn.Module):
    """What `convolution` computes, to rounding: (N, I, H, W) → (N, O, H, W), channels last in memory (where a side is
    odd, as a part of a larger map). No gradient goes through it, not to the maps either.

    Raises:
        ValueError: `convolution` is not a dense 3×3 of stride 1 and padding 1.
    """

    transformed: Tensor  # (16, I, O)
    bias: Tensor | None

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        shape = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
        if shape != ((3, 3), (1, 1), (1, 1), (1, 1)) or convolution.groups != 1 or convolution.padding_mode != "zeros":
            raise ValueError(f"{convolution} is not a dense 3×3 convolution of stride 1 and zero padding 1")
        weight = convolution.weight.detach()
        sums = torch.tensor(_WEIGHT_SUMS, dtype=torch.float64, device=weight.device).to(weight.dtype)
        along_columns = torch.einsum("bx,oiyx->byio", sums, weight)
        self.register_buffer("transformed", torch.einsum("ay,byio->abio", sums, along_columns).flatten(0, 1))
        self.register_buffer("bias", None if convolution.bias is None else convolution.bias.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        images, channels, height, width = features.shape
        down, across = -(-height // 2), -(-width // 2)
        border = (0, 0, 1, 2 * across - width + 1, 1, 2 * down - height + 1)
        padded = functional.pad(features.permute(0, 2, 3, 1), border)
        inputs = padded.new_empty(4, 4, images, down, across, channels)
        rows = _input_sums([padded[:, first::2][:, :down] for first in range(4)])
        for result, row in zip(inputs, rows, strict=True):
            _input_sums([row[:, :, first::2][:, :, :across] for first in range(4)], result)
        outputs = self.transformed.shape[2]
        products = torch.bmm(inputs.view(16, images * down * across, channels), self.transformed)
        del padded, rows, row, inputs
        products = products.view(4, 4, images, down, across, outputs)
        shape = (images, outputs, 2 * down, 2 * across)
        result = torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=torch.channels_last)
        for own_rows, summed in zip((slice(0, None, 2), slice(1, None, 2)), _output_sums(products), strict=True):
            for first, output in enumerate(_output_sums(summed)):
                result.permute(0, 2, 3, 1)[:, own_rows, first::2] = output
        if self.bias is not None:
            result += self.bias[:, None, None]
        return result[:, :, :height, :width]


def _input_sums(four: Sequence[Tensor], result: Tensor | None = None) -> Sequence[Tensor]:
    """The rows of the paper's Bᵀ, applied to neighbours of equal shape; into `result` where one is given."""
    first, second, third, fourth = four
    into = [None] * 4 if result is None else result
    return [
        torch.sub(first, third, out=into[0]),
        torch.add(second, third, out=into[1]),
        torch.sub(third, second, out=into[2]),
        torch.sub(second, fourth, out=into[3]),
    ]


def _output_sums(four: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The rows of the paper's Aᵀ."""
    first, second, third, fourth = four
    middle, difference = second + third, second - third
    return middle.add_(first), difference.sub_(fourth)
