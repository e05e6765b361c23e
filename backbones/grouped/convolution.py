"""The layer: a grouped 3×3 convolution whose output and gradients are computed by the fastest implementation.

Shapes: x (N, C, H, W), weight (C, C / groups, 3, 3), y (N, C, H', W').
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional

from .choice import choose_fastest
from .implementations import Implementation, block_diagonal_candidates, triton_candidates
from .shapes import Geometry, geometry_of


class GroupedConvolution(nn.Conv2d):
    """nn.Conv2d, computed on a GPU by the fastest implementation; the same result to rounding.

    The output and each gradient are computed by the implementation that is fastest for it (`grouped_conv2d`). It is
    found by measurement, so another run may use another one, whose rounding differs. Second derivatives are not
    supported on a GPU. torch.fx can trace the layer; torch.jit.script does not support it.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return grouped_conv2d(input, weight, bias, geometry_of(self))


def fastest_grouped_convolutions(module: nn.Module) -> nn.Module:
    """Turns every grouped 3×3 convolution under `module` into a `GroupedConvolution`, in place; returns `module`.

    Works on any network: torchvision's and timm's ResNeXts have the same layer. Parameters, names and state dict stay
    the same. Subclasses of nn.Conv2d are not changed.
    """
    for part in module.modules():
        if type(part) is nn.Conv2d and _is_grouped_3x3(part):
            part.__class__ = GroupedConvolution
    return module


@torch.fx.wrap
def grouped_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """y, computed by the fastest implementation on the device of x; under autocast, in its type.

    On a CPU, under torch.compile, in double precision, and for invalid shapes or types, torch.nn.functional.conv2d is
    called, and raises its errors.
    """
    if torch.compiler.is_compiling() or not _has_a_choice(x, weight):
        return functional.conv2d(x, weight, bias, *geometry)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    result: Tensor = _GroupedConvolution.apply(x, weight, bias, geometry)
    return result


def _has_a_choice(x: Tensor, weight: Tensor) -> bool:
    """Whether other implementations than the library's may be tried on these tensors."""
    if not x.is_cuda or x.ndim != 4 or x.numel() == 0 or x.shape[1] != weight.shape[0]:
        return False
    same = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
    return same and torch.float64 not in (x.dtype, weight.dtype)


def _is_grouped_3x3(convolution: nn.Conv2d) -> bool:
    numbers = (convolution.stride, convolution.padding, convolution.dilation)
    return (
        convolution.groups > 1
        and convolution.kernel_size == (3, 3)
        and convolution.in_channels == convolution.out_channels
        and convolution.padding_mode == "zeros"
        and all(isinstance(number, tuple) and number[0] == number[1] for number in numbers)
    )


class _GroupedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        ctx.geometry = geometry
        ctx.input_size = tuple(x.shape)
        return _compute_by_fastest("forward", x, weight, geometry, lambda by: by.forward(x, weight, bias, geometry))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        geometry, size = ctx.geometry, ctx.input_size
        of_input, of_weight, of_bias = None, None, None
        work = partial(_compute_by_fastest, maps=gradient, weight=weight, geometry=geometry)
        if ctx.needs_input_grad[0]:
            of_input = work("input gradient", compute=lambda by: by.input_gradient(gradient, weight, size, geometry))
        if ctx.needs_input_grad[1]:
            of_weight = work("weight gradient", compute=lambda by: by.weight_gradient(gradient, x, weight, geometry))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_input, of_weight, of_bias, None


def _compute_by_fastest(
    direction: str, maps: Tensor, weight: Tensor, geometry: Geometry, compute: Callable[[Implementation], Tensor]
) -> Tensor:
    channels = weight.shape[0]
    is_last = maps.is_contiguous(memory_format=torch.channels_last)

    def candidates() -> list[Implementation]:
        found = block_diagonal_candidates(channels, geometry.groups)
        if is_last:  # Triton's kernels read contiguous channels
            found += triton_candidates(channels, geometry.groups, weight.dtype)
        return found

    key = (
        direction,
        str(maps.device),
        maps.dtype,
        channels,
        *geometry,
        (maps.numel() // channels).bit_length(),
        is_last,
    )
    with torch.cuda.device(maps.device) if maps.is_cuda else contextlib.nullcontext():  # where Triton launches
        return compute(choose_fastest(key, candidates, compute))
