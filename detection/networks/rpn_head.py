"""The RPN's head: feature maps → an objectness logit and four box targets for each anchor, or for some anchors alone.

Shapes: N images, C channels, H × W map, A anchors of the whole image (all levels), S anchors asked for.
Source: Faster R-CNN section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from detection.geometry.tensors import contiguous, take

_SPARSE = 2  # positions of a map for each anchor asked for, from which on `RPNHead.at` leaves the others out


class RPNHead(nn.Module):
    """A 3×3 convolution, then an objectness logit and four box targets for each anchor of a position; the same weights
    at each level."""

    # On a CPU the wide, dense 3×3 convolution takes 0.85 of the time in this memory order (`training/placement.py`).
    cpu_memory_format = torch.contiguous_format

    def __init__(self, in_channels: int, channels: int, anchors_per_position: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors_per_position, 1)
        self.box = nn.Conv2d(channels, 4 * anchors_per_position, 1)
        for layer in (self.conv, self.objectness, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Objectness logits (N, A) and box targets (N, A, 4), in the anchors' order."""
        logits, targets = [], []
        for features in maps:
            if self.conv.weight.is_contiguous():
                features = contiguous(features)  # the map follows; torch would reorder the weight at each call
            hidden = functional.relu(self.conv(features), inplace=True)
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            targets.append(self.box(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return torch.cat(logits, dim=1), torch.cat(targets, dim=1)

    def at(self, maps: Sequence[Tensor], index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, S) and box targets (N, S, 4) of the anchors `index` (N, S) alone.

        Training looks at 256 anchors of thousands of positions: there, the 3×3 convolution is the product of its
        weight with the windows around these anchors, and the rest of the map need not be convolved.
        """
        positions = sum(features.shape[-2] * features.shape[-1] for features in maps)
        if index.shape[1] * _SPARSE > positions:
            logits, targets = self(maps)
            return logits.gather(1, index), take(targets, index)
        kinds = self.objectness.out_channels
        windows = _windows(maps, index // kinds)
        hidden = functional.relu(functional.linear(windows, self.conv.weight.flatten(1), self.conv.bias), inplace=True)
        kind = (index % kinds)[..., None, None]
        logits, targets = (
            functional.linear(hidden, layer.weight.flatten(1), layer.bias)
            .unflatten(2, (kinds, -1))
            .take_along_dim(kind, dim=2)
            .squeeze(2)
            for layer in (self.objectness, self.box)
        )
        return logits.squeeze(2), targets


def _windows(maps: Sequence[Tensor], position: Tensor) -> Tensor:
    """What a 3×3 convolution sees of maps (N, C, H, W) at positions (N, S), counted through all levels row by row: (N,
    S, C·9), in the order of its weight and zero beyond a map's border."""
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
