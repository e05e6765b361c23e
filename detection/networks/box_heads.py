"""Feature maps + regions → one vector for each region: the part of the Fast R-CNN between its trunk and its outputs.

Shapes: N images, C channels, H × W map, R regions an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.normalization import make_normalization
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.choice import PLAIN


class BoxHead(Protocol):
    """The interface of a box head, an `nn.Module`, for the Fast R-CNN.

    It is called with maps (N, C, H, W), one a level, and regions (N, R, 4) in pixels of the network's input, and
    returns one vector for each region, (N·R, out_channels).

    Attributes:
        out_channels: length of a region's vector.
    """

    out_channels: int
    __call__: Callable[..., Any]

    @property
    def strides(self) -> Sequence[int]:
        """The stride in pixels of each of its maps, finest first."""
        ...

    def operators_without_deterministic_form(self, device: torch.device) -> list[str]:
        """The names of operators whose gradient differs from run to run on this device; see `training.determinism`."""
        ...


class PooledBoxHead(nn.Module):
    """A box head that begins with RoI pooling: what the heads below share, but for the layers after the pooling.

    Args:
        pooling: the kind of pooling and its size; its strides are those of the trunk's maps.
        out_channels: length of a region's vector.

    Attributes:
        kernels: the forms of functions that have several; see `detection.kernels.choice`.
    """

    def __init__(self, pooling: RoIPooling, out_channels: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.out_channels = out_channels
        self.strides = list(pooling.strides)
        self.kernels = PLAIN

    def operators_without_deterministic_form(self, device: torch.device) -> list[str]:
        """The RoI pooling, in words, if its gradient differs from run to run on this device; otherwise empty."""
        if device.type != "cuda":
            return []
        if self.pooling.method == "max":
            return [
                "the gradient of RoI max-pooling (torchvision.ops.roi_pool); that of fast_rcnn.pooling=align has one"
            ]
        from torch.utils._triton import has_triton  # torchvision checks the same

        return [] if has_triton() else ["the gradient of RoIAlign (torchvision.ops.roi_align) where Triton is missing"]


class C4BoxHead(PooledBoxHead):
    """RoI pooling from C4, conv5 on each region, and the mean over its map (Deep Residual Learning, appendix A).

    Args:
        pooling: see `PooledBoxHead`.
        conv5: the stage that runs on each pooled region; `out_channels` wide.
    """

    def __init__(self, pooling: RoIPooling, conv5: nn.Module) -> None:
        super().__init__(pooling, conv5.out_channels)  # type: ignore[arg-type]
        self.conv5 = conv5

    def forward(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Vectors (N·R, out_channels) of regions (N, R, 4), from maps (N, C, H, W)."""
        return self.kernels.region_features(self.pooling, self.conv5, maps, regions)


class TwoLayerBoxHead(PooledBoxHead):
    """RoI pooling and two fully connected layers with ReLU (Feature Pyramid Networks, section 4.2).

    Args:
        pooling: see `PooledBoxHead`.
        in_channels: channels of the maps.
        width: of both layers.
    """

    def __init__(self, pooling: RoIPooling, in_channels: int, width: int = 1024) -> None:
        super().__init__(pooling, width)
        self.fc6 = nn.Linear(in_channels * pooling.output_size**2, width)
        self.fc7 = nn.Linear(width, width)

    def forward(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Vectors (N·R, out_channels) of regions (N, R, 4), from maps (N, C, H, W)."""
        pooled = self.kernels.pool_regions(self.pooling, maps, regions)
        return functional.relu(self.fc7(functional.relu(self.fc6(pooled.flatten(1)))))


class ConvolutionBoxHead(PooledBoxHead):
    """RoI pooling, 3×3 convolutions with GroupNorm and ReLU, and one fully connected layer with ReLU.

    Source: Wu and He, "Group Normalization", section 4.2 (the 4conv1fc head); Detectron's
    `add_roi_Xconv1fc_gn_head` in `detectron/modeling/fast_rcnn_heads.py`.

    Args:
        pooling: see `PooledBoxHead`.
        in_channels: channels of the maps.
        channels: of the convolutions.
        convolutions: how many there are.
        width: of the fully connected layer.
    """

    def __init__(
        self, pooling: RoIPooling, in_channels: int, channels: int = 256, convolutions: int = 4, width: int = 1024
    ) -> None:
        super().__init__(pooling, width)
        self.convolutions = nn.Sequential()
        for number in range(convolutions):
            convolution = nn.Conv2d(in_channels if number == 0 else channels, channels, 3, padding=1, bias=False)
            if not convolution.weight.is_meta:  # see `fill_normal`
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            self.convolutions.append(convolution)
            self.convolutions.append(make_normalization("group", channels))
            self.convolutions.append(nn.ReLU(inplace=True))
        self.fc = nn.Linear((channels if convolutions else in_channels) * pooling.output_size**2, width)

    def forward(self, maps: Sequence[Tensor], regions: Tensor) -> Tensor:
        """Vectors (N·R, out_channels) of regions (N, R, 4), from maps (N, C, H, W)."""
        pooled = self.convolutions(self.kernels.pool_regions(self.pooling, maps, regions))
        return functional.relu(self.fc(pooled.flatten(1)))
