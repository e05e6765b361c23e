"""A device → the form of each function that has several. Forms are chosen only here.

Each function has a plain form, made of standard PyTorch and torchvision operators, and forms that are faster on one
kind of device and give the same result. Networks are built with the plain forms; `use_kernels` replaces them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.anchor_head import AnchorHead, answer_for, answer_in_windows
from detection.kernels.memory_order import contiguous, contiguous_by_transposing
from detection.kernels.region_features import region_features, region_features_in_parts, region_features_reordered
from detection.kernels.roi_pooling import pool_regions, pool_regions_on_cpu
from detection.kernels.suppression import (
    suppress,
    suppress_by_group,
    suppress_by_group_in_double,
    suppress_by_group_on_cpu,
    suppress_in_blocks,
    suppress_in_one_call,
)


@dataclass(frozen=True)
class Kernels:
    """One form of each function.

    Attributes:
        suppress: boxes, which of them are valid, IoU threshold, limit → NMS of each image (`kernels.suppression`).
        suppress_by_group: boxes, scores, groups, IoU threshold → NMS within groups (`kernels.suppression`).
        pool_regions: pooling, maps, regions → RoI pooling (`kernels.roi_pooling`).
        region_features: pooling, conv5, maps, regions → the vectors of the C4 box head (`kernels.region_features`).
        answer_for: RPN head, maps, anchors → the head's outputs for these anchors (`kernels.anchor_head`).
        contiguous: maps → the same in contiguous memory order (`kernels.memory_order`).
        overlaps_at_once: pairs of boxes whose overlaps are in memory at once during matching: on a CPU few enough for
            its cache, on a GPU enough to use it fully.
    """

    suppress: Callable[[Tensor, Tensor, float, int], tuple[Tensor, Tensor]] = suppress
    suppress_by_group: Callable[[Tensor, Tensor, Tensor, float], Tensor] = suppress_by_group
    pool_regions: Callable[[RoIPooling, Sequence[Tensor], Tensor], Tensor] = pool_regions
    region_features: Callable[[RoIPooling, nn.Module, Sequence[Tensor], Tensor], Tensor] = region_features
    answer_for: Callable[[AnchorHead, Sequence[Tensor], Tensor], tuple[Tensor, Tensor]] = answer_for
    contiguous: Callable[[Tensor], Tensor] = contiguous
    overlaps_at_once: int = 1 << 24


PLAIN = Kernels()
CPU = Kernels(
    suppress=suppress_in_blocks,
    suppress_by_group=suppress_by_group_on_cpu,
    pool_regions=pool_regions_on_cpu,
    region_features=region_features_reordered,
    answer_for=answer_in_windows,
    contiguous=contiguous_by_transposing,
    overlaps_at_once=1 << 19,
)
CUDA = Kernels(
    suppress=suppress_in_one_call,
    suppress_by_group=suppress_by_group_in_double,
    region_features=region_features_in_parts,
    answer_for=answer_in_windows,
)


def kernels_for(device: torch.device) -> Kernels:
    """The fastest available forms for a device."""
    return {"cpu": CPU, "cuda": CUDA}.get(device.type, PLAIN)


def use_kernels(network: nn.Module, kernels: Kernels) -> None:
    """Sets `kernels` on every module of a network that has this attribute."""
    for module in network.modules():
        if isinstance(getattr(module, "kernels", None), Kernels):
            module.kernels = kernels  # type: ignore[assignment]
