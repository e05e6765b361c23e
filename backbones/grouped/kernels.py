"""Grouped 3×3 convolution in Triton: forward with its bias, the gradient of the input, the gradient of the weight.

A GPU's matrix units multiply at least sixteen channels on either side, and ResNeXt's groups have as few as four. So a
program processes a tile of channels with several whole groups, and multiplies by a weight tile that is zero between
channels of different groups. The tile is assembled from the grouped weight when it is read, so the wider weight is
never stored. All sums are in float32 and in a fixed order: the weight's gradient is computed from partial sums, without
atomic additions.

Maps and weights may have any memory order; only with channels last are reads contiguous. Everything also runs in
Triton's interpreter on a CPU (TRITON_INTERPRET=1).

Shapes: N images, C channels, H × W map, g channels a group, T channels a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .shapes import Geometry, empty_in_order_of

_ROWS = 64  # positions that a program processes at a time
_PROGRAMS = 1024  # approximately, for a weight's gradient: several per multiprocessor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, tile: int) -> Tensor:
    """y (N, C, H', W') of x (N, C, H, W), with the memory order of x."""
    height, width = (
        (side + 2 * geometry.padding - 2 * geometry.dilation - 1) // geometry.stride + 1 for side in x.shape[2:]
    )
    return _convolve(x, weight, bias, (*x.shape[:2], height, width), geometry, tile, transposed=False)


def input_gradient(
    gradient: Tensor, weight: Tensor, input_size: tuple[int, ...], geometry: Geometry, tile: int
) -> Tensor:
    """The gradient (N, C, H, W) of x from that of y, with the memory order of the latter."""
    return _convolve(gradient, weight, None, input_size, geometry, tile, transposed=True)


def weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, tile: int) -> Tensor:
    """The gradient (C, g, 3, 3) of the weight from that of y."""
    channels, own = weight.shape[:2]
    used = tile // own * own
    tiles = triton.cdiv(channels, used)
    height, width = gradient.shape[2:]
    positions = gradient.shape[0] * height * width
    chunks = max(min(_PROGRAMS // (9 * tiles), triton.cdiv(positions, _ROWS)), 1)
    rounds = triton.cdiv(positions, chunks * _ROWS)
    partial = torch.empty(chunks, 9, tiles, tile, tile, dtype=torch.float32, device=x.device)
    weight_gradient_kernel[(tiles, 9, chunks)](
        gradient,
        x,
        partial,
        *x.shape[2:],
        height,
        width,
        positions,
        channels,
        *gradient.stride(),
        *x.stride(),
        ROUNDS=rounds,
        **_constants(geometry, x.dtype, used, tile),
    )
    groups = used // own
    blocks = partial.sum(dim=0)[:, :, :used, :used].reshape(9, tiles, groups, own, groups, own)
    diagonal = blocks.diagonal(dim1=2, dim2=4)  # (9, tiles, g of the output, g of the input, groups)
    weights = diagonal.permute(1, 4, 2, 3, 0).reshape(tiles * used, own, 3, 3)[:channels]
    return weights.to(weight.dtype)


def _convolve(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    result_size: tuple[int, ...],
    geometry: Geometry,
    tile: int,
    *,
    transposed: bool,
) -> Tensor:
    own = weight.shape[1]
    used = tile // own * own
    result = empty_in_order_of(result_size, source)
    images, channels, height, width = result_size
    positions = images * height * width
    convolution_kernel[(triton.cdiv(positions, _ROWS), triton.cdiv(channels, used))](
        source,
        weight,
        source if bias is None else bias,  # not read without one
        result,
        *source.shape[2:],
        height,
        width,
        positions,
        channels,
        *source.stride(),
        *weight.stride(),
        *result.stride(),
        GROUP=own,
        TRANSPOSED=transposed,
        HAS_BIAS=bias is not None,
        **_constants(geometry, source.dtype, used, tile),
    )
    return result


def _constants(geometry: Geometry, dtype: torch.dtype, used: int, tile: int) -> dict[str, int | str]:
    """The constants that both kernels are compiled with. PyTorch's cuDNN settings decide whether float32 is multiplied
    as TF32.
    """
    is_rounded = dtype == torch.float32 and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    return {
        "USED": used,
        "STRIDE": geometry.stride,
        "PADDING": geometry.padding,
        "DILATION": geometry.dilation,
        "PRECISION": "tf32" if is_rounded else "ieee",
        "ROWS": _ROWS,
        "TILE": tile,
    }


# Sizes that change from image to image: Triton would compile anew for each that is 1 or a multiple of 16.
_SIZES = ["source_height", "source_width", "height", "width", "positions"]


@triton.jit(do_not_specialize=_SIZES)
def convolution_kernel(
    source,
    weight,
    bias,
    result,
    source_height,
    source_width,
    height,
    width,
    positions,
    channels,
    source_n,
    source_c,
    source_y,
    source_x,
    weight_out,
    weight_in,
    weight_y,
    weight_x,
    result_n,
    result_c,
    result_y,
    result_x,
    GROUP: tl.constexpr,
    USED: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """ROWS positions of the result × the USED channels of a tile; TRANSPOSED: of the input's gradient."""
    position = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    own = tl.arange(0, TILE)
    channel = tl.program_id(1) * USED + own
    is_channel = (own < USED) & (channel < channels)
    image = (position // (height * width)).to(tl.int64)
    y = (position // width) % height
    x = position % width
    # The weight's tile has the source's channels as rows and the result's as columns.
    if TRANSPOSED:
        weights = weight + channel[:, None] * weight_out + (own % GROUP)[None, :] * weight_in
    else:
        weights = weight + channel[None, :] * weight_out + (own % GROUP)[:, None] * weight_in
    is_weight = (own[:, None] // GROUP == own[None, :] // GROUP) & is_channel[:, None] & is_channel[None, :]
    sources = source + image[:, None] * source_n + channel[None, :] * source_c
    total = tl.full((ROWS, TILE), 0.0, tl.float32)
    for tap in range(9):
        tap_y = tap // 3
        tap_x = tap % 3
        if TRANSPOSED:
            above = y + PADDING - tap_y * DILATION
            left = x + PADDING - tap_x * DILATION
            seen = (above >= 0) & (left >= 0) & (above % STRIDE == 0) & (left % STRIDE == 0)
            from_y = above // STRIDE
            from_x = left // STRIDE
        else:
            from_y = y * STRIDE - PADDING + tap_y * DILATION
            from_x = x * STRIDE - PADDING + tap_x * DILATION
            seen = (from_y >= 0) & (from_x >= 0)
        seen = seen & (from_y < source_height) & (from_x < source_width) & (position < positions)
        values = tl.load(
            sources + from_y[:, None] * source_y + from_x[:, None] * source_x,
            mask=seen[:, None] & is_channel[None, :],
            other=0.0,
        )
        factors = tl.load(weights + tap_y * weight_y + tap_x * weight_x, mask=is_weight, other=0.0)
        total = tl.dot(values, factors, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    results = result + image[:, None] * result_n + channel[None, :] * result_c
    results += y[:, None] * result_y + x[:, None] * result_x
    tl.store(results, total.to(result.dtype.element_ty), mask=(position < positions)[:, None] & is_channel[None, :])


@triton.jit(do_not_specialize=[*_SIZES, "ROUNDS"])
def weight_gradient_kernel(
    gradient,
    source,
    partial,
    source_height,
    source_width,
    height,
    width,
    positions,
    channels,
    gradient_n,
    gradient_c,
    gradient_y,
    gradient_x,
    source_n,
    source_c,
    source_y,
    source_x,
    ROUNDS,
    USED: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Products of all output channels (rows) with all input channels (columns) of a tile, for one of the nine taps,
    summed over ROUNDS · ROWS positions."""
    own = tl.arange(0, TILE)
    channel = tl.program_id(0) * USED + own
    is_channel = (own < USED) & (channel < channels)
    tap = tl.program_id(1)
    tap_y = tap // 3
    tap_x = tap % 3
    total = tl.full((TILE, TILE), 0.0, tl.float32)
    for number in range(ROUNDS):
        position = (tl.program_id(2) * ROUNDS + number) * ROWS + tl.arange(0, ROWS)
        image = (position // (height * width)).to(tl.int64)
        y = (position // width) % height
        x = position % width
        from_y = y * STRIDE - PADDING + tap_y * DILATION
        from_x = x * STRIDE - PADDING + tap_x * DILATION
        exists = position < positions
        seen = exists & (from_y >= 0) & (from_x >= 0) & (from_y < source_height) & (from_x < source_width)
        gradients = gradient + image[:, None] * gradient_n + channel[None, :] * gradient_c
        gradients += y[:, None] * gradient_y + x[:, None] * gradient_x
        of_result = tl.load(gradients, mask=exists[:, None] & is_channel[None, :], other=0.0)
        values = source + image[:, None] * source_n + channel[None, :] * source_c
        values += from_y[:, None] * source_y + from_x[:, None] * source_x
        of_source = tl.load(values, mask=seen[:, None] & is_channel[None, :], other=0.0)
        total = tl.dot(tl.trans(of_result), of_source, total, input_precision=PRECISION)
    tile = (tl.program_id(2) * 9 + tap) * tl.num_programs(0) + tl.program_id(0)
    tl.store(partial + tile.to(tl.int64) * TILE * TILE + own[:, None] * TILE + own[None, :], total)
