"""The RPN's head: feature maps → an objectness logit and four box targets for each anchor, or only for some.

Shapes: N images, C channels, H × W map, A anchors of the whole image (all levels), S selected anchors.
Source: Faster R-CNN section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones.initial_weights import fill_normal
from detection.kernels.choice import PLAIN


class RPNHead(nn.Module):
    """A 3×3 convolution, then an objectness logit and four box targets for each anchor of a position, with the same
    weights at each level.

    Attributes:
        kernels: the forms of functions that have several; see `detection.kernels.choice`.
        cpu_memory_format: the memory order that is fastest on a CPU, None: the configured one; see
            `detection.training.placement`.
    """

    precise_layers = ("objectness", "box")  # float32 where the rest is not, see `training/low_precision.py`

    def __init__(self, in_channels: int, channels: int, anchors_per_position: int) -> None:
        super().__init__()
        # On a CPU a dense 3×3 convolution of 1,024 channels takes 0.9 of the time in this order, of 512 as long,
        # of a pyramid's 256 it takes 1.3 times as long.
        self.cpu_memory_format = torch.contiguous_format if in_channels > 512 else None
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors_per_position, 1)
        self.box = nn.Conv2d(channels, 4 * anchors_per_position, 1)
        for layer in (self.conv, self.objectness, self.box):
            fill_normal(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.kernels = PLAIN

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Objectness logits (N, A) and box targets (N, A, 4), in the anchors' order, for maps (N, C, H, W)."""
        logits, targets = [], []
        for features in maps:
            if self.conv.weight.is_contiguous():
                features = self.kernels.contiguous(features)  # torch would reorder the weight at each call instead
            hidden = functional.relu(self.conv(features), inplace=True)
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            targets.append(self.box(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return torch.cat(logits, dim=1), torch.cat(targets, dim=1)

    def at(self, maps: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, S) and box targets (N, S, 4) of the anchors `index` (N, S) only."""
        return self.kernels.answer_for(self, maps, index)
