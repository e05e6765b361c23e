"""Feature maps and regions → the class logits and box targets of each region: a box head with its two output layers.

Shapes: N images, C channels, H × W map, R regions an image, K classes, k = K boxes a region, or 1 for all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from backbones.initial_weights import fill_normal
from detection.geometry.coding import BoxCoder
from detection.networks.box_heads import BoxHead

PRECISE_LAYERS = ("class_logits", "box_targets")  # float32 where the rest is not, see `training/low_precision.py`


class HasRegionHead(Protocol):
    """A module with a box head and the two sibling output layers of `output_layers`."""

    box_head: BoxHead
    class_logits: nn.Linear
    box_targets: nn.Linear


class Stage(NamedTuple):
    """A head that classifies regions and refines their boxes, how its boxes are encoded, and the weight of its losses.
    A plain Fast R-CNN has one, a cascade several."""

    head: HasRegionHead
    coder: BoxCoder
    weight: float


class RegionHead(nn.Module):
    """A box head and its output layers as a module of its own.

    Args:
        classes: K, without the background. Boxes are those of all classes together.
    """

    precise_layers = PRECISE_LAYERS

    def __init__(self, box_head: BoxHead, classes: int) -> None:
        super().__init__()
        self.box_head = box_head
        self.class_logits, self.box_targets = output_layers(box_head.out_channels, classes, 1)


def output_layers(channels: int, classes: int, boxes: int) -> tuple[nn.Linear, nn.Linear]:
    """The layers for the class logits, (…, K + 1), and for the box targets, (…, 4·k), of vectors (…, channels).

    Source: Fast R-CNN section 2.3 for the standard deviations of their random weights.
    """
    layers = nn.Linear(channels, classes + 1), nn.Linear(channels, 4 * boxes)
    for layer, std in zip(layers, (0.01, 0.001), strict=True):
        fill_normal(layer.weight, std)
        nn.init.zeros_(layer.bias)
    return layers


def classify(head: HasRegionHead, maps: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
    """Class logits (N·R, K + 1) and box targets (N·R, k, 4) of regions (N, R, 4), from maps (N, C, H, W)."""
    features = head.box_head(maps, regions)
    return head.class_logits(features).float(), head.box_targets(features).float().unflatten(1, (-1, 4))
