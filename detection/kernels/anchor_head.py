"""RPN head, feature maps and selected anchors → the head's outputs for these anchors only, in two forms.

Shapes: N images, C channels, H × W map, A anchors of the whole image (all levels), S selected anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from detection.geometry.tensors import take

_SPARSE = 2  # windows are cheaper than whole maps from this many positions a selected anchor


class AnchorHead(Protocol):
    """A 3×3 convolution, a ReLU, and two 1×1 convolutions; called with maps, it returns the outputs for all anchors."""

    conv: nn.Conv2d
    objectness: nn.Conv2d
    box: nn.Conv2d

    def __call__(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]: ...


def answer_for(head: AnchorHead, maps: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    """Objectness logits (N, S) and box targets (N, S, 4) of the anchors `index` (N, S), selected from the outputs for
    the whole maps (N, C, H, W)."""
    logits, targets = head(maps)
    return logits.gather(1, index), take(targets, index)


def answer_in_windows(head: AnchorHead, maps: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
    """The same as `answer_for`, faster for few anchors.

    A training step uses 256 anchors out of thousands of positions. The 3×3 convolution is then computed as the product
    of its weight with the windows around these anchors, and the rest of the maps is not convolved.
    """
    positions = sum(features.shape[-2] * features.shape[-1] for features in maps)
    if index.shape[1] * _SPARSE > positions:
        return answer_for(head, maps, index)
    kinds = head.objectness.out_channels
    windows = _windows(maps, index // kinds)
    hidden = functional.relu(functional.linear(windows, head.conv.weight.flatten(1), head.conv.bias), inplace=True)
    kind = (index % kinds)[..., None, None]
    logits, targets = (
        functional.linear(hidden, layer.weight.flatten(1), layer.bias)
        .unflatten(2, (kinds, -1))
        .take_along_dim(kind, dim=2)
        .squeeze(2)
        for layer in (head.objectness, head.box)
    )
    return logits.squeeze(2), targets


def _windows(maps: Sequence[Tensor], position: Tensor) -> Tensor:
    """The 3×3 windows of maps (N, C, H, W) around positions (N, S), counted through all levels row by row: (N, S, C·9),
    in the order of the convolution's weight and zero beyond a map's border."""
    cells = [maps[0].new_zeros(len(position), 1, maps[0].shape[1])]  # cell 0: what lies beyond the border
    neighbours, first = [], 1
    for features in maps:
        height, width = features.shape[-2:]
        numbers = torch.arange(first, first + height * width, device=position.device).view(height, width)
        neighbours.append(functional.pad(numbers, (1, 1, 1, 1)).unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9))
        cells.append(features.permute(0, 2, 3, 1).flatten(1, 2))
        first += height * width
    image = torch.arange(len(position), device=position.device)[:, None, None]
    rows = torch.cat(cells, dim=1).flatten(0, 1)
    windows = rows.index_select(0, (torch.cat(neighbours)[position] + image * first).flatten())
    return windows.view(*position.shape, 9, -1).transpose(2, 3).flatten(2)
