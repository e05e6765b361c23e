"""Detections and ground truth → the twelve COCO figures and AP per class.

Axes of `precision` (I, R, K, A) and `recall` (I, K, A, L): I the ten IoU thresholds 0.50 … 0.95, R the 101 recall
levels, K categories, A the four area ranges (all, small, medium, large), L the three limits of detections a class and
image (1, 10, 100; the last may be changed, and the names of the figures with it). Precision is that at the last limit:
no figure needs another.

A backend computes these two tables; the figures are read from them. "arrays" is our own (`coco_evaluation`),
"pycocotools" the reference (`pycocotools_evaluation`). Their results are equal bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.evaluation import coco_evaluation, pycocotools_evaluation
from detection.evaluation.coco_parameters import AREA_RANGES, DETECTION_LIMITS, IOU_THRESHOLDS, detection_limits
from detection.evaluation.ground_truth import GroundTruth
from detection.evaluation.groups import places_among
from detection.evaluation.results import checked

Backend = Literal["arrays", "pycocotools"]
BACKENDS: dict[Backend, Callable[[GroundTruth, np.ndarray, tuple[int, ...]], tuple[np.ndarray, np.ndarray]]] = {
    "arrays": coco_evaluation.evaluate,
    "pycocotools": pycocotools_evaluation.evaluate,
}
LIMIT = DETECTION_LIMITS[-1]
CURVES = (0.5, 0.75)  # the IoU thresholds of the precision-recall curves
# In COCO's order. Name: (precision or recall, IoU threshold or None for the mean over all ten, area range, limit).
FIGURES: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "AP_small": ("precision", None, "small", 100),
    "AP_medium": ("precision", None, "medium", 100),
    "AP_large": ("precision", None, "large", 100),
    "AR_1": ("recall", None, "all", 1),
    "AR_10": ("recall", None, "all", 10),
    "AR_100": ("recall", None, "all", 100),
    "AR_small": ("recall", None, "small", 100),
    "AR_medium": ("recall", None, "medium", 100),
    "AR_large": ("recall", None, "large", 100),
}


@dataclass(frozen=True)
class ClassAveragePrecision:
    """One row of the per-class table. The two averages are None if the class has no targets."""

    category_id: int
    name: str
    objects: int  # targets: crowd regions are not counted
    average_precision: float | None
    average_precision_50: float | None


@dataclass(frozen=True)
class AveragePrecision:
    """The outcome of an evaluation.

    figures: the twelve COCO figures by name (`FIGURES`), each in 0–1, or None where there are no targets (COCO prints
    −1 there). classes: one row per category of the ground truth, ascending by id.
    notes: what was repaired or left out, in words with counts; empty for clean inputs. limit: the maximum of detections
    per class and image that were considered.
    precision: IoU threshold (`CURVES`) → precision at the 101 recall levels, the mean over the classes with targets;
    empty without targets. It is not part of `to_dict`.
    """

    figures: dict[str, float | None]
    classes: list[ClassAveragePrecision]
    images: int
    detections: int
    notes: list[str] = field(default_factory=list)
    limit: int = LIMIT
    precision: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts, for JSON."""
        return {
            "figures": dict(self.figures),
            "classes": [
                {
                    "category_id": row.category_id,
                    "name": row.name,
                    "objects": row.objects,
                    "AP": row.average_precision,
                    "AP50": row.average_precision_50,
                }
                for row in self.classes
            ],
            "images": self.images,
            "detections": self.detections,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The twelve lines as COCO prints them."""
        figures = figures_at(self.limit)
        return "\n".join(_coco_line(*figures[name], value) for name, value in self.figures.items())

    def class_table(self) -> str:
        """One line per class: category id, name, objects, AP, AP@0.5; a dash if the class has no objects."""
        names = [printable(row.name) for row in self.classes]
        width = max([5, *map(len, names)])
        lines = [f"{'id':>5}  {'class':<{width}}  {'objects':>7}  {'AP':>6}  {'AP@0.5':>6}"]
        for row, name in zip(self.classes, names, strict=True):
            ap, ap50 = (
                f"{value:6.3f}" if value is not None else f"{'—':>6}"
                for value in (row.average_precision, row.average_precision_50)
            )
            lines.append(f"{row.category_id:>5}  {name:<{width}}  {row.objects:>7}  {ap}  {ap50}")
        return "\n".join(lines)

    def table(self) -> str:
        """The summary, the per-class table and the notes, as text for a terminal."""
        parts = [self.summary(), self.class_table()]
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(parts)


def figures_at(limit: int) -> dict[str, tuple[str, float | None, str, int]]:
    """`FIGURES` with another limit in place of 100."""
    return {
        name.replace(str(LIMIT), str(limit)): (kind, threshold, area_range, limit if most == LIMIT else most)
        for name, (kind, threshold, area_range, most) in FIGURES.items()
    }


def average_precision(
    ground_truth: GroundTruth,
    detections: np.ndarray,
    *,
    source: str = "the detections",
    limit: int = LIMIT,
    backend: Backend = "arrays",
) -> AveragePrecision:
    """COCO's average precision of boxes (Lin et al., ECCV 2014; cocodataset.org, "Detection Evaluation").

    Args:
        ground_truth: the objects, and the images on which detections are evaluated.
        detections: float64 (D, 7) rows of image_id, x, y, w, h, score, category_id; D may be 0.
        source: the detections' name in messages.
        limit: the maximum of detections per class and image that are considered, at least 11; COCO's is 100.
        backend: computes the tables; the figures do not depend on it.

    In an image without detections, all objects are missed. Detections of a category that the ground truth does not list
    are left out, as pycocotools does, and noted.

    Raises:
        UserError: detections that are invalid (see `results.checked`) or belong to an image that the ground truth does
            not list; not one detection of a listed category.
    """
    limits = detection_limits(limit)
    notes = [*ground_truth.notes, *_images_with_more_objects(ground_truth, limit)]
    rows = _of_listed_images(checked(detections, source), ground_truth, source)
    rows = _of_listed_categories(rows, ground_truth, source, notes)
    precision, recall = BACKENDS[backend](ground_truth, rows, limits)
    figures = {
        name: _figure(precision, recall, kind, threshold, area_range, limits.index(most))
        for name, (kind, threshold, area_range, most) in figures_at(limit).items()
    }
    category_ids = ground_truth.category_ids
    targets = np.searchsorted(category_ids, ground_truth.object_category_ids[~ground_truth.crowds])
    objects = np.bincount(targets, minlength=len(category_ids)).tolist()
    own_figures = _class_means(precision[..., 0]), _class_means(precision[:1, ..., 0])
    classes = [
        ClassAveragePrecision(*row)
        for row in zip(category_ids.tolist(), ground_truth.category_names, objects, *own_figures, strict=True)
    ]
    curves = {}
    for threshold in CURVES:
        values = precision[np.isclose(IOU_THRESHOLDS, threshold)][0, :, :, 0]
        present = values[0] > -1
        if present.any():
            curves[f"{threshold:g}"] = values[:, present].mean(axis=1).tolist()
    return AveragePrecision(figures, classes, len(ground_truth.image_ids), len(rows), notes, limit, curves)


def _images_with_more_objects(ground_truth: GroundTruth, limit: int) -> list[str]:
    """A note where even a perfect detector could not find all objects of a class in an image."""
    images = np.searchsorted(ground_truth.image_ids, ground_truth.object_image_ids[~ground_truth.crowds])
    classes = np.searchsorted(ground_truth.category_ids, ground_truth.object_category_ids[~ground_truth.crowds])
    number = len(ground_truth.category_ids)
    cells = np.sort(images * number + classes)
    first = np.flatnonzero(np.diff(cells, prepend=-1))
    counts = np.diff(first, append=len(cells))
    crowded = int((counts > limit).sum())
    if not crowded:
        return []
    most = counts.argmax()
    image_id = ground_truth.image_ids[cells[first[most]] // number]
    category_id = ground_truth.category_ids[cells[first[most]] % number]
    return [
        f"{crowded} times an image has more than {limit} objects of one class (the most: image id {image_id}, "
        f"{counts[most]} of category id {category_id}), where the {limit} best detections of a class are looked at: "
        "not even a perfect detector could reach 1. A results file can be measured with --max-detections, and a "
        "detector gives more with fast_rcnn.detections"
    ]


def _of_listed_images(rows: np.ndarray, ground_truth: GroundTruth, source: str) -> np.ndarray:
    unknown = places_among(rows[:, 0], ground_truth.image_ids) < 0
    if unknown.any():
        raise UserError(
            f"{source}: {int(unknown.sum())} of {len(rows)} detections are of images that {ground_truth.source} does "
            f"not list (the first: image id {int(rows[unknown][0, 0])}): they belong to another data set or split"
        )
    return rows


def _of_listed_categories(rows: np.ndarray, ground_truth: GroundTruth, source: str, notes: list[str]) -> np.ndarray:
    unknown = places_among(rows[:, 6], ground_truth.category_ids) < 0
    if not unknown.any():
        return rows
    ids = ", ".join(str(int(number)) for number in np.unique(rows[unknown, 6])[:5])
    if unknown.all():
        raise UserError(
            f"{source}: no detection is of a category that {ground_truth.source} lists (their category id: {ids}): "
            "category_id must be the annotation file's own id"
        )
    notes.append(f"{int(unknown.sum())} detections of categories that are not listed (category id {ids}), left out")
    return rows[~unknown]


def _figure(
    precision: np.ndarray,
    recall: np.ndarray,
    kind: str,
    threshold: float | None,
    area_range: str,
    limit: int,
) -> float | None:
    """One figure; `limit` is a position in the limits, the last one for precision."""
    values = precision if kind == "precision" else recall[..., limit]
    values = values[..., list(AREA_RANGES).index(area_range)]
    return _mean_of_present(values if threshold is None else values[np.isclose(IOU_THRESHOLDS, threshold)])


def _mean_of_present(values: np.ndarray) -> float | None:
    """The mean over the classes with targets (COCO marks the others −1), or None if no class has any."""
    present = values[values > -1]
    return float(present.mean()) if present.size else None


def _class_means(precision: np.ndarray) -> list[float | None]:
    """The mean of each class's precision (…, K), None of one without targets (COCO marks all of it −1)."""
    classes = precision.shape[-1]
    # in one order in memory, on which the last digit of a mean depends
    values = np.ascontiguousarray(np.moveaxis(precision, -1, 0).reshape(classes, math.prod(precision.shape[:-1])))
    means = values.mean(axis=1)
    present = precision[0, 0] > -1
    return [mean if has else None for mean, has in zip(means.tolist(), present.tolist(), strict=True)]


def _coco_line(kind: str, threshold: float | None, area_range: str, limit: int, value: float | None) -> str:
    title = "Average Precision (AP)" if kind == "precision" else "Average Recall    (AR)"
    iou = "0.50:0.95" if threshold is None else f"{threshold:0.2f}"
    figure = -1.0 if value is None else value
    return f" {title} @[ IoU={iou:<9} | area={area_range:>6} | maxDets={limit:>3} ] = {figure:0.3f}"
