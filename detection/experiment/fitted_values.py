"""The training images and boxes → image size, anchors and limits of a configuration, each with its reason."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from detection.data.index import DatasetIndex
from detection.experiment.anchor_check import IOUS, fitted_anchors, reach, scaled_objects, strides_of
from detection.experiment.reasoned_config import ReasonedConfig

_SMALL = 16.0  # pixels at the network's scale: four cells of the finest level of a pyramid
_SIDES = {"cpu": (320, 384, 448, 512), "cuda": (800, 960, 1024)}  # shorter sides, the preset's first
_KEEP_ANCHORS = 0.01  # the preset's anchors stay if the fitted ones raise the mean best IoU by less


def set_size(fitted: ReasonedConfig, index: DatasetIndex, device: str) -> None:
    """Sets the image size: the preset's, or larger where many boxes would be small and the images hold more."""
    shorter, longer = np.minimum(index.heights, index.widths), np.maximum(index.heights, index.widths)
    own = float(np.median(shorter))
    aspect = min(max(float(np.quantile(longer / shorter, 0.95)), 1.5 if device == "cpu" else 5 / 3), 2.0)
    extent = index.boxes[~index.crowds]
    size = np.sqrt(np.prod(extent[:, 2:] - extent[:, :2], axis=1))
    rows = np.repeat(np.arange(len(index)), np.diff(index.offsets))[~index.crowds]
    relative = size / shorter[rows]
    sides = _SIDES[device]
    side = sides[0]
    for larger in sides[1:]:
        if larger <= own * 1.05 and np.quantile(relative, 0.1) * side < _SMALL:
            side = larger
    side = min(side, max(_to_16(2 * own), 96))
    tenth = np.quantile(relative, 0.1) * side
    reason = (
        f"the images' shorter sides are {own:.0f} pixels in the median; at {side} nine tenths of the boxes are at "
        f"least {tenth:.0f} pixels large (√area)"
    )
    longest = _to_16(side * aspect)
    fitted.change(reason, data__test_shorter_side=side)
    fitted.change(f"as wide as 95 % of the images need ({aspect:.2f}:1), at most 2:1",
                  data__test_longer_side=longest)  # fmt: skip
    fitted.change("the test's side, plus or minus a tenth: objects vary in size",
                  data__shorter_sides=tuple(_to_16(factor * side) for factor in (0.9, 1.0, 1.1)))  # fmt: skip
    fitted.change("a tenth above the test's", data__longer_side=_to_16(1.1 * longest))


def _to_16(value: float) -> int:
    return max(16, 16 * round(value / 16))


def set_anchors(fitted: ReasonedConfig, index: DatasetIndex) -> None:
    """Sets anchors fitted to the boxes, unless the preset's are as good or a given detector's are kept."""
    config = fitted.config
    if config.init_from is not None:
        return
    objects, strides = scaled_objects(config.data, index), strides_of(config)
    preset, found = reach(config, objects, strides), fitted_anchors(config, objects, strides)
    if found.mean_iou < preset.mean_iou + _KEEP_ANCHORS:
        reason = (
            f"the preset's: a box overlaps its best anchor by {preset.mean_iou:.2f} in the mean; fitted are no better"
        )
        found = preset
    else:
        reached = [f"{1 - found.missed(iou):.0%} reach {iou} ({1 - preset.missed(iou):.0%})" for iou in IOUS]
        reason = (
            f"fitted to the boxes: the mean IoU with the best anchor is {found.mean_iou:.2f} (preset: "
            f"{preset.mean_iou:.2f}), {', '.join(reached)}"
        )
    fitted.change(reason, rpn__anchor_sizes=found.sizes)
    fitted.change("height / width; " + ("all boxes are about of one shape" if len(found.ratios) == 1 else "as above"),
                  rpn__anchor_ratios=found.ratios)  # fmt: skip


def set_limits(fitted: ReasonedConfig, index: DatasetIndex) -> None:
    """Raises the numbers of proposals and detections where images are crowded."""
    counts = np.diff(index.offsets)
    most = int(counts.max(initial=0))
    rpn, fast = fitted.config.rpn, fitted.config.fast_rcnn
    # In images of 381 cells, half as many covered 0.78 of the objects instead of 0.95; AP was 0.46 instead of 0.54.
    wanted = max(3 * most, 8 * float(np.quantile(counts, 0.95)))
    needed = min(100 * math.ceil(wanted / 100), 4000)
    for key, limits in (
        ("rpn__training_proposals", rpn.training_proposals),
        ("rpn__test_proposals", rpn.test_proposals),
    ):
        if needed > limits.after_nms:
            before = None if limits.before_nms is None else max(limits.before_nms, 2 * needed)
            changed = dataclasses.replace(limits, after_nms=needed, before_nms=before)
            fitted.change(f"an image has up to {most} objects: several proposals for each", **{key: changed})
    detections = 10 * math.ceil(1.5 * most / 10)
    if detections > fast.detections:
        fitted.change(f"an image has up to {most} objects; COCO's figures count 100 detections a class",
                      fast_rcnn__detections=detections)  # fmt: skip
