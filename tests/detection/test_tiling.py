"""Detections in tiles, merged: each object once, with the box that it has in the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.tiling import detect_in_tiles, merge_tiles, tile_windows

CATEGORIES = Categories((3, 7), ("cat", "dog"))


def detect_values(image: np.ndarray) -> ImageDetections:
    """A detector of rectangles: each has a value of its own in channel 0, and its label in channel 1. It sees as much
    of a rectangle as lies in the image, as a detector does; the score is lower for a small part."""
    boxes, labels, scores = [], [], []
    for value in np.unique(image[:, :, 0]):
        y, x = np.nonzero(image[:, :, 0] == value)
        if value and len(x) >= 50:  # a few pixels are no object
            boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
            labels.append(image[y[0], x[0], 1])
            scores.append(len(x) / (len(x) + 1000))
    order = np.argsort(-np.array(scores))
    return ImageDetections.of_labels(
        np.array(boxes, dtype=np.float32).reshape(-1, 4)[order],
        np.array(scores, dtype=np.float32)[order],
        np.array(labels, dtype=np.int64)[order],
        CATEGORIES,
    )


def drawn(height: int, width: int, boxes: list[list[int]]) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = (number + 1, 1 + number % 2, 0)
    return image


def by_place(found: ImageDetections) -> list[tuple[list[float], str]]:
    return sorted(zip(found.boxes.tolist(), found.names, strict=True))


@pytest.mark.parametrize(
    "box",
    [
        [10, 10, 60, 60],  # within one tile
        [90, 10, 130, 60],  # in the overlap of two
        [60, 30, 150, 70],  # cut by a border, whole nowhere
        [85, 85, 115, 115],  # at the corner of four tiles
        [5, 20, 290, 80],  # across all tiles of a row
        [0, 0, 300, 260],  # larger than a tile in both directions
    ],
)
def test_an_object_comes_out_once_with_its_whole_box(box: list[int]) -> None:
    found = detect_in_tiles(detect_values, drawn(260, 300, [box]), tile=100, overlap=0.2)
    assert by_place(found) == [([float(side) for side in box], "cat")]


@pytest.mark.parametrize("seed", range(5))
def test_crowded_images_have_the_same_objects_as_whole(seed: int) -> None:
    generator = np.random.default_rng(seed)
    corners = [(x, y) for x in range(0, 560, 40) for y in range(0, 480, 40)]  # 168 cells, an object in each
    sides = generator.integers(12, 40, (len(corners), 2))
    boxes = [[x, y, x + w, y + h] for (x, y), (w, h) in zip(corners, sides.tolist(), strict=True)]
    image = drawn(480, 560, boxes)
    found = detect_in_tiles(detect_values, image, tile=170, overlap=0.3)
    assert by_place(found) == by_place(detect_values(image))
    assert (np.diff(found.scores) <= 0).all()


def test_touching_objects_of_a_class_stay_apart() -> None:
    image = drawn(100, 300, [[60, 10, 98, 90], [0, 0, 1, 1], [98, 10, 140, 90]])  # one value between: the same class
    found = detect_in_tiles(detect_values, image, tile=100, overlap=0.2)
    assert by_place(found) == [([60.0, 10.0, 98.0, 90.0], "cat"), ([98.0, 10.0, 140.0, 90.0], "cat")]


@pytest.mark.parametrize("shape", [(50, 60), (100, 100), (1, 1)])
def test_a_small_image_is_one_tile(shape: tuple[int, int]) -> None:
    assert tile_windows(*shape, 100, 0.2).tolist() == [[0, 0, shape[1], shape[0]]]
    assert len(detect_in_tiles(detect_values, drawn(*shape, []), 100)) == 0


@pytest.mark.parametrize(("tile", "overlap"), [(100, 0.0), (64, 0.5), (33, 0.9)])
def test_tiles_cover_the_image_and_overlap(tile: int, overlap: float) -> None:
    windows = tile_windows(150, 210, tile, overlap)
    seen = np.zeros((150, 210), dtype=bool)
    for x0, y0, x1, y1 in windows.tolist():
        assert (x1 - x0, y1 - y0) == (tile, tile)
        seen[y0:y1, x0:x1] = True
    assert seen.all()
    assert (np.diff(np.unique(windows[:, 0])) <= tile * (1 - overlap) + 1).all()


@pytest.mark.parametrize(
    ("tile", "overlap", "message"), [(0, 0.2, "at least 16"), (100, 1.0, "0–0.9"), (100, -1, "0–")]
)
def test_tiles_that_cannot_be_made(tile: int, overlap: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tile_windows(100, 100, tile, overlap)


def test_the_score_is_that_of_the_detection_that_gives_the_box() -> None:
    windows = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    parts = [
        ([[70, 10, 100, 50]], 0.99),
        ([[10, 10, 60, 50]], 0.4),
    ]  # a fragment, and the whole object in the other tile
    found = [
        ImageDetections.of_labels(
            np.array(boxes, dtype=np.float32), np.array([score], dtype=np.float32), np.array([1]), CATEGORIES
        )
        for boxes, score in parts
    ]
    merged = merge_tiles(found, windows, 100, 160)
    assert merged.boxes.tolist() == [[70, 10, 120, 50]]
    assert merged.scores.tolist() == [pytest.approx(0.4)]
