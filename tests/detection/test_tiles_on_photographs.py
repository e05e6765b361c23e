"""Photographs composed to one large image: the objects found in tiles are those of the photographs, each once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.tiling import detect_in_tiles

COLUMNS = 8
LEAST_SEEN = 0.25  # share of an object that must lie in a tile for it to be found there


class Composition:
    """The annotated photographs of a split of COCO, side by side, and a detector that knows their objects.

    It is the image as well: no pixels are needed but the position of a tile. In a tile the detector finds the visible
    part of each object of which enough is visible, with a score that grows with it, and with an error of at most
    `noise` of the object's sides.
    """

    def __init__(self, annotations: Path, noise: float = 0.0) -> None:
        content = json.loads(annotations.read_text())
        categories = sorted(content["categories"], key=lambda one: one["id"])
        ids = [one["id"] for one in categories]
        self.categories = Categories(tuple(ids), tuple(one["name"] for one in categories))
        boxes, labels, top, right = [], [], 0, 0
        for start in range(0, len(content["images"]), COLUMNS):
            row = content["images"][start : start + COLUMNS]
            left = 0
            for image in row:
                for one in content["annotations"]:
                    x, y, width, height = one["bbox"]
                    if one["image_id"] == image["id"] and not one["iscrowd"] and min(width, height) >= 2:
                        boxes.append([left + x, top + y, left + x + width, top + y + height])
                        labels.append(ids.index(one["category_id"]) + 1)
                left += image["width"]
            top, right = top + max(image["height"] for image in row), max(right, left)
        self.boxes, self.labels, self.shape = np.array(boxes), np.array(labels), (top, right, 3)
        self._generator, self._noise = np.random.default_rng(0), noise

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        rows, columns = place
        self._window = np.array([columns.start, rows.start, columns.stop, rows.stop])
        return np.zeros((1, 1, 3), dtype=np.uint8)

    def __call__(self, image: np.ndarray) -> ImageDetections:
        window = self._window
        clipped = np.clip(self.boxes, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
        areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (clipped, self.boxes)]
        seen = areas[0] / areas[1]
        kept = np.flatnonzero(seen >= LEAST_SEEN)
        kept = kept[np.argsort(-seen[kept], kind="stable")]
        sides = np.tile(self.boxes[kept, 2:] - self.boxes[kept, :2], 2)
        boxes = clipped[kept] + self._generator.uniform(-self._noise, self._noise, (len(kept), 4)) * sides
        boxes = np.clip(boxes, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
        return ImageDetections.of_labels(
            (boxes - window[[0, 1, 0, 1]]).astype(np.float32),
            seen[kept].astype(np.float32),
            self.labels[kept],
            self.categories,
        )


@pytest.mark.parametrize(("tile", "overlap"), [(800, 0.2), (640, 0.2), (1000, 0.4)])
def test_each_object_comes_out_once_with_its_box(tile: int, overlap: float, shared_data: Path) -> None:
    composed = Composition(shared_data / "coco_small" / "annotations" / "instances_train2017.json")
    found = detect_in_tiles(composed, composed, tile, overlap)
    assert len(composed.labels) == 490
    ious = iou_matrix(composed.boxes, found.boxes) * (composed.labels[:, None] == found.labels)
    assert (np.sort(found.labels) == np.sort(composed.labels)).all()
    assert (ious.max(axis=1) >= 0.9).all()  # of a part that is too small to be found in its tile, it lacks a tenth
    assert (ious.max(axis=1) >= 0.999).mean() > 0.99
    assert (ious.max(axis=0) >= 0.9).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_with_boxes_that_differ_from_tile_to_tile(split: str, shared_data: Path) -> None:
    composed = Composition(shared_data / "coco_small" / "annotations" / f"instances_{split}2017.json", noise=0.02)
    found = detect_in_tiles(composed, composed, 800, 0.2)
    ious = iou_matrix(composed.boxes, found.boxes) * (composed.labels[:, None] == found.labels)
    assert len(found) == len(composed.labels)
    assert (ious.max(axis=1) >= 0.9).all()


def iou_matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod((end - start).clip(min=0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1] - common)
