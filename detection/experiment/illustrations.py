"""Detections and recall → images for the report and for the loggers of a training."""

from __future__ import annotations

import numpy as np

from detection.common.evenly_spread import evenly_spread
from detection.data.index import DatasetIndex
from detection.evaluation.average_precision import AveragePrecision
from detection.evaluation.recall import ProposalRecall
from detection.experiment.dataset_images import image_of
from detection.report.curve_image import draw_curve
from detection.report.drawing import draw_detections, draw_ground_truth, side_by_side

IMAGES = 4  # of detections, at each evaluation of a training
_MIN_SCORE = 0.3  # of the detections that are drawn there


def draw_beside_ground_truth(index: DatasetIndex, i: int, detections: np.ndarray) -> np.ndarray | None:
    """Image i with its ground truth beside the same with its detections; None if the image cannot be read.

    Args:
        detections: (D, 7) of the split, as `inference.detect` returns them.
    """
    label_of = {category: label for label, category in enumerate(index.category_ids.tolist(), start=1)}
    image = image_of(index, i)
    if image is None:
        return None
    boxes, labels, crowds = index.objects(i)
    rows = detections[(detections[:, 0] == int(index.image_ids[i])) & (detections[:, 5] >= _MIN_SCORE)]
    found = np.concatenate([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]], axis=1)
    names = index.category_names
    return side_by_side(
        draw_ground_truth(image, boxes, labels, names, crowds),
        draw_detections(image, found, [label_of[int(c)] for c in rows[:, 6]], names, rows[:, 5]),
    )


def of_detector(index: DatasetIndex, figures: AveragePrecision, detections: np.ndarray) -> dict[str, np.ndarray]:
    """Images of some detections beside the ground truth, and of precision over recall."""
    images = {}
    for i in evenly_spread(len(index), IMAGES).tolist():
        if (drawn := draw_beside_ground_truth(index, i, detections)) is not None:
            images[f"detections/{int(index.image_ids[i])}"] = drawn
    if figures.precision:
        points = [(place / 100, precision) for place, precision in enumerate(figures.precision["0.5"])]
        images["curves/precision_over_recall"] = draw_curve(
            points, "precision at IoU 0.5, mean over the classes", "recall", 1.0
        )
    return images


def of_rpn(recall: ProposalRecall) -> dict[str, np.ndarray]:
    """An image of the average recall over the number of proposals an image."""
    values = recall.average_recall["all"]
    if values is None:
        return {}
    points = [(0.0, 0.0), *((float(limit), value) for limit, value in zip(recall.limits, values, strict=True))]
    return {
        "curves/recall_over_proposals": draw_curve(
            points, "average recall at IoU 0.5-0.95", "proposals an image", float(recall.limits[-1])
        )
    }
