"""Small networks, with the kernels that they have on a CPU, and batches that several tests build."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backbones import ResNeXtBackbone, create_backbone, create_c4
from detection.geometry.anchors import Anchors
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.choice import CPU, use_kernels
from detection.networks.box_heads import C4BoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.rpn import RPN

TINY: dict[str, Any] = {"depths": (1, 1, 1, 1), "cardinality": 2, "base_width": 16, "planes": 8, "stem_width": 8}
# Objects of three images, the last of which has none.
OBJECTS = [[[10, 10, 60, 50], [64, 20, 120, 90]], [[30, 30, 55, 58]], []]
LABELS = [[1, 2], [3], []]


def tiny_backbone(norm: str = "frozen", outputs: tuple[str, ...] = ("c4",)) -> ResNeXtBackbone:
    return create_backbone("resnext50_32x4d", None, outputs, norm=norm, **TINY)


def tiny_rpn(seed: int = 0, *, norm: str = "frozen", **settings: Any) -> RPN:
    torch.manual_seed(seed)
    sizes = settings.pop("sizes", (24, 48))
    network = RPN(tiny_backbone(norm), Anchors([sizes], (0.5, 1.0, 2.0), [16]), **{"channels": 128, **settings})
    use_kernels(network, CPU)
    spread(network)
    return network


def tiny_fast_rcnn(
    seed: int = 0, *, classes: int = 3, norm: str = "frozen", pooling: str = "align", **settings: Any
) -> FastRCNN:
    torch.manual_seed(seed)
    trunk, conv5 = create_c4("resnext50_32x4d", None, norm=norm, **TINY)
    head = C4BoxHead(RoIPooling(pooling, 6, (16,), 2), conv5)  # type: ignore[arg-type]
    network = FastRCNN(trunk, head, classes=classes, **settings)
    use_kernels(network, CPU)
    spread(network)
    return network


def spread(network: torch.nn.Module) -> None:
    """Output layers start so close to zero that all boxes tie; give them weights at which answers differ."""
    for name, layer in network.named_modules():
        if name.split(".")[-1] in ("objectness", "box", "class_logits", "box_targets"):
            torch.nn.init.normal_(layer.weight, std=0.05)
            torch.nn.init.normal_(layer.bias, std=0.05)


def batch(
    boxes: list[list[list[float]]],
    labels: list[list[int]],
    *,
    crowds: list[list[bool]] | None = None,
    size: tuple[int, int] = (96, 128),
    sizes: list[tuple[int, int]] | None = None,
    proposals: torch.Tensor | None = None,
    seed: int = 0,
) -> SimpleNamespace:
    """Random images with the given objects, padded as the loader pads them."""
    number, most = len(boxes), max(1, *(len(own) for own in boxes))
    padded = torch.zeros(number, most, 4)
    padded_labels = torch.zeros(number, most, dtype=torch.int64)
    padded_crowds = torch.zeros(number, most, dtype=torch.bool)
    for i, (own, own_labels) in enumerate(zip(boxes, labels, strict=True)):
        if own:
            padded[i, : len(own)] = torch.tensor(own, dtype=torch.float32)
            padded_labels[i, : len(own)] = torch.tensor(own_labels)
            if crowds is not None:
                padded_crowds[i, : len(own)] = torch.tensor(crowds[i])
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(
        images=torch.randint(0, 256, (number, 3, *size), dtype=torch.uint8, generator=generator),
        sizes=torch.tensor(sizes or [size] * number),
        boxes=padded,
        labels=padded_labels,
        crowds=padded_crowds,
        seeds=torch.arange(number) + 100,
        proposals=proposals,
        proposal_counts=None if proposals is None else torch.full((number,), proposals.shape[1]),
    )


def part(whole: SimpleNamespace, image: int) -> SimpleNamespace:
    """The batch of one image, with the same padding."""
    return SimpleNamespace(**{k: None if v is None else v[image : image + 1] for k, v in vars(whole).items()})


odd_objects = pytest.mark.parametrize(
    ("boxes", "labels", "crowds"),
    [
        ([[]], [[]], None),
        ([[[0, 0, 60, 60]]], [[1]], [[True]]),
        ([[[5, 5, 6, 6]]], [[1]], None),
        ([[[0, 40, 128, 41]]], [[1]], None),
        ([[[i % 120, i % 90, i % 120 + 5, i % 90 + 5] for i in range(400)]], [[1] * 400], None),
    ],
    ids=["nothing", "only a crowd", "one pixel", "a line", "400 objects"],
)


def assert_losses_and_gradients_are_finite(network: torch.nn.Module, given: SimpleNamespace) -> None:
    losses = network(given)
    assert all(value.isfinite().all() for value in losses.values())
    sum(value.sum() for value in losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        assert parameter.grad.isfinite().all(), name
