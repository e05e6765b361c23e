"""A training split and a configuration's anchors → the sections of the checker's page about boxes and anchors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.experiment import dataset_images
from detection.experiment.anchor_check import (
    IOUS,
    AnchorFit,
    ScaledObjects,
    fitted_anchors,
    reach,
    scaled_objects,
    strides_of,
)
from detection.report.charts import Panel, chart
from detection.report.dataset_page import Block
from detection.report.sections import Table

_WORST = 8  # objects
_MISSED = 0.1  # share of the objects beyond the anchors
_GAIN = 0.02  # by which fitted anchors must be better to be advised


def anchor_blocks(config: settings.Config, index: DatasetIndex, advice: list[str]) -> list[Block]:
    """The sections on the sizes and aspect ratios of the boxes, against the anchors; adds sentences to `advice`."""
    objects = scaled_objects(config.data, index)
    sides = objects.sides
    sizes, ratios = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    rpn = config.rpn
    charts = [
        _cumulative("√(width × height) in pixels of the resized image", sizes, rpn.anchor_sizes),
        _cumulative("height / width", ratios, rpn.anchor_ratios),
    ]
    texts = [
        "Pixels are those of the resized training images (shorter sides "
        f"{_numbers(config.data.shorter_sides)}, longer at most {config.data.longer_side}). Half of the boxes are "
        f"between {np.quantile(sizes, 0.25):.0f} and {np.quantile(sizes, 0.75):.0f} pixels large (square root of the "
        "area). The dashed lines in the charts are the sizes and ratios of the configuration's anchors."
    ]
    try:
        strides = strides_of(config)
        fits = {
            "of the configuration": reach(config, objects, strides),
            "fitted": fitted_anchors(config, objects, strides),
        }
    except (UserError, ValueError) as error:
        return [Block("Boxes", [*texts, f"The anchors cannot be compared: {error}"], charts=charts)]
    head = ["anchors", *(f"boxes below IoU {iou}" for iou in IOUS), "mean best IoU", "sizes", "ratios"]
    rows = [
        [name, *(f"{fit.missed(iou):.1%}" for iou in IOUS), f"{fit.mean_iou:.3f}",
         _numbers(fit.sizes), _numbers(fit.ratios)]
        for name, fit in fits.items()
    ]  # fmt: skip
    own, better = fits.values()
    lines = [f"  anchor_sizes: [{_numbers(better.sizes)}]", f"  anchor_ratios: [{_numbers(better.ratios)}]"]
    texts.append(
        "For each box, the anchor with the highest IoU is taken. In training, an anchor is positive for a box if their "
        f"IoU is at least {rpn.positive_iou}; a box below that has only its best anchor as a positive example."
    )
    if rpn.allowed_border is not None:
        texts.append(
            "Anchors that extend beyond the image by more than rpn.allowed_border="
            f"{rpn.allowed_border:g} pixels are ignored in training, and here."
        )
    is_better = better.mean_iou > own.mean_iou + _GAIN
    if not is_better:
        texts.append("The fitted anchors are no better: keep those of the configuration.")
    if own.missed(IOUS[0]) > _MISSED:
        remedy = "take the fitted anchors below" if is_better else "scale the images up, or use a feature pyramid"
        advice.append(f"No anchor reaches {own.missed(IOUS[0]):.0%} of the boxes at IoU {IOUS[0]}: {remedy}.")
    elif is_better:
        advice.append(
            f"Fitted anchors overlap the boxes better than the configuration's (mean best IoU {better.mean_iou:.3f} "
            f"against {own.mean_iou:.3f}); they are listed below."
        )
    code = ["rpn:", *lines] if is_better else []
    return [
        Block("Boxes and anchors", texts, [Table(head, rows, words=(0, 4, 5))], charts, code),
        *_worst(index, objects, own),
    ]


def _worst(index: DatasetIndex, objects: ScaledObjects, fit: AnchorFit) -> list[Block]:
    order = [one for one in np.argsort(fit.best, kind="stable")[:_WORST].tolist() if fit.best[one] < IOUS[0]]
    images = []
    for one in order:
        i, (width, height) = int(objects.images[one]), objects.sides[one]
        text = f"{index.file_name(i)}: {width:.0f} × {height:.0f} pixels in the resized image, "
        shown = dataset_images.of_object(index, i, int(objects.rows[one]), f"{text}best IoU {fit.best[one]:.2f}")
        images += [shown] if shown is not None else []
    return [Block("Boxes farthest from any anchor", images=images)] if images else []


def _cumulative(label: str, values: np.ndarray, marks: Sequence[float]) -> tuple[str, str]:
    """A chart of the share of boxes below each value, and what it shows."""
    shares = np.linspace(0, 1, 101)
    points = np.quantile(values, shares)
    end = max(float(np.quantile(values, 0.98)), *(mark * 1.05 for mark in marks))
    curve = [(float(x), float(y)) for x, y in zip(points, shares, strict=True) if x <= end]
    panel = Panel("share of the boxes below", {"boxes": curve}, (0.0, end), (0.0, 1.0), {
        f"{mark:g}": mark for mark in marks
    })  # fmt: skip
    return Markup(chart(label, [panel])), f"{label[0].upper()}{label[1:]}: median {np.median(values):.3g}."


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
