"""The paper's figures for its networks (Xie et al., "Aggregated Residual Transformations", CVPR 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PaperFigures:
    """The paper's figures for a network; None where it has none.

    Attributes:
        parameters: in millions. multiply_adds: in billions, at 224 × 224.
        errors: in percent, by measure.
        tables: the paper's tables with these figures.
    """

    tables: str
    errors: Mapping[str, float]
    parameters: float | None = None
    multiply_adds: float | None = None


def _imagenet(tables: str, top1: float, top5: float | None = None, **size: float) -> PaperFigures:
    errors = {"top-1": top1} if top5 is None else {"top-1": top1, "top-5": top5}
    return PaperFigures(tables, MappingProxyType(errors), **size)


def _cifar(parameters: float, cifar10: float, cifar100: float) -> PaperFigures:
    return PaperFigures("7", MappingProxyType({"CIFAR-10": cifar10, "CIFAR-100": cifar100}), parameters)


PAPER_FIGURES: dict[str, PaperFigures] = {
    "resnet50": _imagenet("1, 3", 23.9, parameters=25.5, multiply_adds=4.1),
    "resnet101": _imagenet("3", 22.0),
    "resnet200": _imagenet("4", 21.7, 5.8),
    "resnet101_1x100d": _imagenet("4", 21.3, 5.7),
    "resnext50_2x40d": _imagenet("3", 23.0),
    "resnext50_4x24d": _imagenet("3", 22.6),
    "resnext50_8x14d": _imagenet("3", 22.3),
    "resnext50_32x4d": _imagenet("1, 3", 22.2, parameters=25.0, multiply_adds=4.2),
    "resnext101_2x40d": _imagenet("3", 21.7),
    "resnext101_4x24d": _imagenet("3", 21.4),
    "resnext101_8x14d": _imagenet("3", 21.3),
    "resnext101_32x4d": _imagenet("3", 21.2),
    "resnext101_2x64d": _imagenet("4", 20.7, 5.5),
    "resnext101_64x4d": _imagenet("4", 20.4, 5.3),
    "resnext29_8x64d": _cifar(34.4, 3.65, 17.77),
    "resnext29_16x64d": _cifar(68.1, 3.58, 17.31),
}
"""By canonical name. Errors of Tables 3 and 4 are of a single 224 × 224 crop."""
