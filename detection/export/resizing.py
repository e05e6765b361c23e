"""Images of any size → the sizes that the detector was trained for, in operators that every runtime has.

Computes the same bytes as `detection.data.augmentation`, which calls OpenCV: bilinear interpolation between pixel
centres in fixed point. A weight is rounded to 1/2048. The sum over two columns loses its last 4 bits, its product with
the weight of its row the last 16, and the sum over two rows is rounded to a whole number.

Shapes: N images, H × W their padded size, h × w the padded size of the network's input.
Source: OpenCV, modules/imgproc/src/resize.cpp (resizeGeneric_, HResizeLinear and VResizeLinear of uchar).
"""

from __future__ import annotations

import torch
from torch import Tensor

_ONE = 2048.0  # the integer that stands for a weight of 1 (INTER_RESIZE_COEF_SCALE)


def network_sizes(sizes: Tensor, shorter_side: int, longer_side: int) -> Tensor:
    """The sizes, int64 (N, 2), that images of `sizes` (N, 2), (height, width), are resized to; the same as
    `Augmentation.target_size`.

    >>> network_sizes(torch.tensor([[300, 400]]), 600, 1000)
    tensor([[600, 800]])
    """
    exact = sizes.double()
    sides = torch.tensor((shorter_side, longer_side), dtype=torch.float64, device=sizes.device)
    # Divided as tensors: torch computes number / tensor by a reciprocal, whose rounding differs.
    # Not by amin and amax: OpenVINO 2026.4 computes number / ReduceMin as ReduceMin / number.
    height, width = exact.unbind(dim=1)
    factor = torch.minimum(sides[0] / torch.minimum(height, width), sides[1] / torch.maximum(height, width))
    return (exact * factor[:, None] + 0.5).floor().clamp(min=1).long()


def resize(
    images: Tensor, sizes: Tensor, new_sizes: Tensor, height: int, width: int, *, float64: bool = True
) -> Tensor:
    """Images uint8 (N, H, W, 3) → uint8 (N, height, width, 3).

    Args:
        sizes: (N, 2) height and width of the images within H × W.
        new_sizes: (N, 2) height and width after the resize; beyond them the result has no meaning.
        height, width: at least the largest of `new_sizes`.
        float64: whether positions are computed in float64, as OpenCV's are. OpenVINO has none on a CPU, and would
            compute the same in float32, where up to one weight in ten comes out different; without it one in a hundred
            thousand does, in images of many thousand pixels.
    """
    number, padded_height, padded_width = images.shape[:3]
    upper, lower, upper_weight, lower_weight = _neighbours(sizes[:, 0], new_sizes[:, 0], height, float64)
    left, right, left_weight, right_weight = _neighbours(sizes[:, 1], new_sizes[:, 1], width, float64)
    # At the left and right border OpenCV takes one column. The same two columns with any weights give the same sum.
    pixels = images.reshape(-1, 3)
    first_row = torch.arange(number, device=images.device)[:, None] * padded_height

    def at(rows: Tensor, columns: Tensor) -> Tensor:
        place = ((first_row + rows) * padded_width)[:, :, None] + columns[:, None]
        return pixels.index_select(0, place.flatten()).view(number, height, width, 3).float()

    def between_columns(rows: Tensor) -> Tensor:
        both = at(rows, left) * left_weight[:, None, :, None] + at(rows, right) * right_weight[:, None, :, None]
        return (both / 16).floor()

    upper_part = _product(between_columns(upper), upper_weight[:, :, None, None])
    lower_part = _product(between_columns(lower), lower_weight[:, :, None, None])
    return ((upper_part + lower_part + 2) / 4).floor().to(torch.uint8)


def _product(values: Tensor, weights: Tensor) -> Tensor:
    """floor(values · weights / 65536) for whole numbers up to 32,640 and 2,048. float32 does not hold all products; it
    holds those with either half of a weight, 64 · `high` + `low`, exactly."""
    high = (weights / 64).floor()
    low = weights - 64 * high
    return ((values * high + (values * low / 64).floor()) / 1024).floor()


def _neighbours(old: Tensor, new: Tensor, count: int, float64: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two pixels along one side that each of `count` new pixels lies between, int64 (N, count), and their weights,
    float32 (N, count), whole numbers that add up to `_ONE`. old, new: lengths of that side, (N,)."""
    index = torch.arange(count, device=old.device)
    if float64:
        scale = 1 / (new.double() / old)
        position = ((index.double() + 0.5) * scale[:, None] - 0.5).float()
    else:  # (j + 1/2) · old / new - 1/2, from below 0 on, as a whole number and a fraction
        halves = 2 * new[:, None]
        numerator = (2 * index + 1) * old[:, None] + new[:, None]  # of the position + 1
        whole = torch.div(numerator, halves, rounding_mode="floor")
        position = (whole - 1).float() + (numerator - whole * halves).float() / halves.float()
    first = position.floor()
    share = position - first
    last = (old - 1)[:, None]
    first = first.long()
    return (
        first.clamp(min=0).minimum(last),
        (first + 1).clamp(min=0).minimum(last),
        ((1 - share) * _ONE).round(),
        (share * _ONE).round(),
    )
