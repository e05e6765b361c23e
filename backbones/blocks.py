"""The residual block that the networks are built of: (c), the grouped convolution, of the three forms of Fig. 3.

    x (N, C_in, H, W) → (N, 4n, ceil(H/s), ceil(W/s))     n planes of the stage, s stride, C cardinality,
                                                          d width of a path = channels of the 3×3 convolution / C

A block adds C transformations of bottleneck width d to its input (paper, Eq. 2): y = x + Σ_i T_i(x). BN and ReLU follow
the first two convolutions; the last BN precedes the addition of the shortcut. The other two forms, and the conversions
between them, are in `equivalent_forms.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .normalization import conv_norm, make_normalization
from .variants import EXPANSION


class Projection(nn.Sequential):
    """Convolution and normalisation of a shortcut, as torchvision names them: 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self[0], self[1], x)


class ResidualBlock(nn.Module):
    """ReLU(F(x) + shortcut(x)), where a subclass defines F as `transform`.

    Shortcut B of the ResNet paper: the identity, or 1×1 convolution and BN where channels or resolution change. With
    `residual=False` there is no shortcut and the block is ReLU(F(x)): the paper's ablation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str, residual: bool) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.norm = norm
        self.residual = residual

    def add_shortcut(self) -> None:
        """Adds the shortcut. A subclass calls it after its own layers, as torchvision's state dicts are ordered."""
        self.downsample: nn.Module | None = None
        if self.residual and (self.stride != 1 or self.in_channels != self.out_channels):
            self.downsample = Projection(
                nn.Conv2d(self.in_channels, self.out_channels, 1, self.stride, bias=False),
                make_normalization(self.norm, self.out_channels),
            )

    def transform(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self.transform(x)
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class AggregatedBottleneck(ResidualBlock):
    """The base class of a bottleneck block's forms: the numbers that they are built from.

    Args:
        in_channels: channels of the input map.
        planes: the stage's n; the block gives 4n channels.
        group_width: channels of the 3×3 convolution, C · d.
        cardinality: C.
        stride, dilation: of the 3×3 convolution.
        norm: see `normalization.make_normalization`.
        residual: False leaves the shortcut out.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        group_width: int,
        cardinality: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: str = "batch",
        residual: bool = True,
    ) -> None:
        super().__init__(in_channels, planes * EXPANSION, stride=stride, norm=norm, residual=residual)
        self.planes = planes
        self.group_width = group_width
        self.cardinality = cardinality
        self.dilation = dilation
        self.add_layers()
        self.add_shortcut()

    def add_layers(self) -> None:
        raise NotImplementedError


class Bottleneck(AggregatedBottleneck):
    """Form (c): the grouped convolution. Parameter names are torchvision's. Cardinality 1 is ResNet's bottleneck."""

    def add_layers(self) -> None:
        width, dilation = self.group_width, self.dilation
        self.conv1 = nn.Conv2d(self.in_channels, width, 1, bias=False)
        self.bn1 = make_normalization(self.norm, width)
        self.conv2 = nn.Conv2d(
            width, width, 3, self.stride, padding=dilation, dilation=dilation, groups=self.cardinality, bias=False
        )
        self.bn2 = make_normalization(self.norm, width)
        self.conv3 = nn.Conv2d(width, self.out_channels, 1, bias=False)
        self.bn3 = make_normalization(self.norm, self.out_channels)

    def transform(self, x: Tensor) -> Tensor:
        return self._last_convolutions(F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True))

    def _last_convolutions(self, opening: Tensor) -> Tensor:
        out = F.relu(conv_norm(self.conv2, self.bn2, opening), inplace=True)
        return conv_norm(self.conv3, self.bn3, out)

    def finish(self, opening: Tensor, shortcut: Tensor) -> Tensor:
        """The output of `forward` from two intermediate results: `opening`, ReLU(bn1(conv1(x))), and `shortcut`, the
        output of `downsample`."""
        return F.relu(self._last_convolutions(opening).add_(shortcut), inplace=True)
