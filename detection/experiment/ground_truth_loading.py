"""A dataset index, or an annotation file alone → the ground truth that an evaluation compares detections with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from detection.data.index import DatasetIndex, load_index
from detection.evaluation.ground_truth import GroundTruth


def ground_truth_of(index: DatasetIndex) -> GroundTruth:
    """The objects of an index as its annotation file states them.

    Raises:
        ValueError: the index was loaded for training.
    """
    stated = index.require_stated()
    order = np.argsort(index.category_ids)
    return GroundTruth(
        image_ids=np.sort(index.image_ids),
        category_ids=index.category_ids[order],
        category_names=[index.category_names[position] for position in order.tolist()],
        boxes=stated.boxes,
        areas=stated.areas,
        crowds=stated.crowds,
        object_image_ids=np.repeat(index.image_ids, np.diff(stated.offsets)),
        object_category_ids=index.category_ids[stated.labels - 1],
        notes=index.findings.repairs(),
        source=str(index.annotation_file),
    )


def load_ground_truth(annotations: str | os.PathLike[str] | Mapping[str, Any]) -> GroundTruth:
    """The ground truth of a COCO annotation file, or of a dict with its content; the images are not needed.

    Raises:
        UserError: the file cannot be used; see `load_index`.
    """
    return ground_truth_of(load_index(annotations, None, name="ground truth", purpose="evaluation"))
