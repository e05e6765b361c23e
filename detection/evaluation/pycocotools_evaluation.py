"""Detections and ground truth → COCO's precision and recall tables, computed by pycocotools, the reference."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from detection.evaluation.coco_parameters import DETECTION_LIMITS
from detection.evaluation.ground_truth import GroundTruth


def evaluate(
    ground_truth: GroundTruth, detections: np.ndarray, limits: tuple[int, ...] = DETECTION_LIMITS
) -> tuple[np.ndarray, np.ndarray]:
    """pycocotools' COCOeval on arrays: the same arguments and tables as `coco_evaluation.evaluate`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    lists: dict[str, list[Any]] = {
        "images": [{"id": image_id} for image_id in ground_truth.image_ids.tolist()],
        "categories": [{"id": category_id} for category_id in ground_truth.category_ids.tolist()],
    }
    targets = _annotations(
        ground_truth.object_image_ids,
        ground_truth.object_category_ids,
        ground_truth.boxes,
        areas=ground_truth.areas,
        iscrowd=ground_truth.crowds,
    )
    boxes = detections[:, 1:5]
    found = _annotations(
        detections[:, 0].astype(np.int64),
        detections[:, 6].astype(np.int64),
        boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        iscrowd=np.zeros(len(boxes), dtype=bool),
        scores=detections[:, 5],
    )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools always prints its progress
        tables = []
        for annotations in (targets, found):
            table = COCO()
            table.dataset = {**lists, "annotations": annotations}
            table.createIndex()
            tables.append(table)
        evaluation = COCOeval(*tables, iouType="bbox")
        evaluation.params.maxDets = list(limits)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., -1], evaluation.eval["recall"]


def _annotations(
    image_ids: np.ndarray,
    category_ids: np.ndarray,
    boxes: np.ndarray,
    *,
    areas: np.ndarray,
    iscrowd: np.ndarray,
    scores: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Rows → pycocotools' annotations. Ids count from 1: COCOeval treats a match with id 0 as no match."""
    columns = zip(
        image_ids.tolist(),
        category_ids.tolist(),
        boxes.tolist(),
        areas.tolist(),
        iscrowd.astype(int).tolist(),
        strict=True,
    )
    entries = [
        {"id": number, "image_id": image_id, "category_id": category_id, "bbox": box, "area": area, "iscrowd": crowd}
        for number, (image_id, category_id, box, area, crowd) in enumerate(columns, start=1)
    ]
    if scores is not None:
        for entry, score in zip(entries, scores.tolist(), strict=True):
            entry["score"] = score
    return entries
