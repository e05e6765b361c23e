"""A configuration's anchors on the training images → how well they reach the objects, and anchors that fit better.

Shapes: T objects of the training images that are no crowd regions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from detection import config as settings
from detection.common.seeds import hash63
from detection.data.index import DatasetIndex
from detection.experiment.builders import build_anchors, build_rpn
from detection.experiment.resizes import training_augmentation
from detection.geometry.anchor_fitting import fit_anchors
from detection.geometry.anchor_reach import best_anchor_iou

IOUS = (0.5, 0.7)  # what counts as found, and what the RPN's positive anchors have by default
_AT_ONCE = 100_000  # objects


@dataclass(frozen=True)
class ScaledObjects:
    """Objects as the network sees them: boxes float64 (T, 4) and sizes (T, 2), height and width of their images, in
    pixels of its input; images, rows (T,): each one's image and its row in the index."""

    boxes: np.ndarray
    sizes: np.ndarray
    images: np.ndarray
    rows: np.ndarray

    @property
    def sides(self) -> np.ndarray:
        """Widths and heights, (T, 2)."""
        return np.asarray(self.boxes[:, 2:] - self.boxes[:, :2])


@dataclass(frozen=True)
class AnchorFit:
    """Anchors and their best IoU with each object, float64 (T,)."""

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    best: np.ndarray

    def missed(self, iou: float) -> float:
        """The share of the objects that no anchor reaches at this IoU."""
        return float((self.best < iou).mean())

    @property
    def mean_iou(self) -> float:
        """The mean of the best IoU, which `fit_anchors` raises."""
        return float(self.best.mean())


def scaled_objects(data: settings.Data, index: DatasetIndex) -> ScaledObjects:
    """The objects of a training split at one of the sizes at which the training resizes each image."""
    augmentation = training_augmentation(dataclasses.replace(data, albumentations=()))
    images = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    rows = np.flatnonzero(~index.crowds)
    images = images[rows]
    new = np.array(
        [
            augmentation.resized(int(height), int(width), hash63(i))
            for i, (height, width) in enumerate(zip(index.heights, index.widths, strict=True))
        ],
        dtype=np.float64,
    ).reshape(-1, 2)
    scale = new / np.stack([index.heights, index.widths], axis=1)
    boxes = index.boxes[rows].astype(np.float64) * np.tile(scale[images, ::-1], 2)
    return ScaledObjects(boxes, new[images], images, rows)


def strides_of(config: settings.Config) -> list[int]:
    """The strides of the RPN's feature maps. Nothing is allocated."""
    with torch.device("meta"):
        return list(build_rpn(config, pretrained=False).anchors.strides)


def reach(config: settings.Config, objects: ScaledObjects, strides: list[int]) -> AnchorFit:
    """The best IoU that an anchor which takes part in the RPN's training has with each object."""
    rpn = config.rpn
    anchors = build_anchors(rpn, strides)
    best = [
        best_anchor_iou(
            torch.from_numpy(objects.boxes[start : start + _AT_ONCE]),
            torch.from_numpy(objects.sizes[start : start + _AT_ONCE]),
            anchors,
            allowed_border=rpn.allowed_border,
            divisor=config.data.size_divisor,
        ).numpy()
        for start in range(0, len(objects.boxes), _AT_ONCE)
    ]
    return AnchorFit(tuple(rpn.anchor_sizes), tuple(rpn.anchor_ratios), np.concatenate(best))


def fitted_anchors(config: settings.Config, objects: ScaledObjects, strides: list[int]) -> AnchorFit:
    """Anchors fitted to the objects, as many sizes as the configuration has, and one ratio or three."""
    rpn = config.rpn
    boxes = objects.boxes[(objects.sides > 0).all(axis=1)]
    sizes, ratios = fit_anchors(boxes, strides, len(rpn.anchor_sizes) // len(strides))
    own = dataclasses.replace(rpn, anchor_sizes=sizes, anchor_ratios=ratios)
    return reach(dataclasses.replace(config, rpn=own), objects, strides)
