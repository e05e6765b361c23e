"""The settings of RoI pooling (kind, number of bins, strides), and boxes → the level that each is pooled from.

The pooling itself is in `detection.kernels.roi_pooling`. Shapes: R regions, P bins along a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Method = Literal["align", "max"]


@dataclass(frozen=True)
class RoIPooling:
    """The settings of a RoI pooling.

    Attributes:
        method: "max" is the paper's RoI max-pooling (Fast R-CNN section 2.1), "align" is RoIAlign (Mask R-CNN section
            3), aligned to pixel centres.
        output_size: P, bins along a side.
        strides: pixels a cell, per feature level, ascending.
        sampling_ratio: RoIAlign's samples along a bin's side; 0 uses as many as the bin has cells, rounded up.

    Raises:
        ValueError: the method is unknown.
    """

    method: Method
    output_size: int
    strides: Sequence[int]
    sampling_ratio: int = 2

    def __post_init__(self) -> None:
        if self.method not in ("align", "max"):
            raise ValueError(f"RoI pooling method {self.method!r} is neither 'align' nor 'max'")


def assign_levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The position in `strides` of the level that each box (R, 4) is pooled from, int64 (R,).

    Boxes of 224² pixels go to stride 16, and each halving of the side goes one level down (Feature Pyramid Networks,
    equation 1). Boxes without area go to the finest level.

    >>> assign_levels(torch.tensor([[0.0, 0, 112, 112], [0.0, 0, 224, 224]]), [4, 8, 16, 32])
    tensor([1, 2])
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
    level = torch.floor(4 + torch.log2(side / 224) + 1e-6) - math.log2(strides[0])
    return level.nan_to_num().clamp(0, len(strides) - 1).long()
