"""A dataset index, or an annotation file alone → the ground truth that an evaluation compares detections with; and its
file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from backbones.common.files import write_json
from detection.data.index import DatasetIndex, load_index
from detection.data.writers.coco import content_of
from detection.data.writers.objects import Split, as_stated
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


def write_ground_truth(path: str | os.PathLike[str], index: DatasetIndex) -> None:
    """Writes an index as a COCO annotation file, whatever format its labels have; `path` is replaced atomically.
    `load_ground_truth` reads from it what `ground_truth_of` the index is, to the bit.

    Raises:
        ValueError: the index was loaded for training.
        CannotWrite: the folder cannot be written.
    """
    names = [index.file_name(i) for i in range(len(index))]
    categories = sorted(zip(index.category_ids.tolist(), index.category_names, strict=True))
    split = Split(index.name, index, as_stated(index), names)
    write_json(path, content_of(split, categories, decimals=None), indent=None)
