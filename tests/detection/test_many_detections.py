"""A detector with a limit of thousands: every part after the network passes on as many detections as it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.common.categories import Categories
from detection.data.augmentation import Augmentation
from detection.detector import Detector
from detection.detector_interface import ImageDetections
from detection.networks.faster_rcnn import FasterRCNN
from detection.predict import as_dicts, predict
from detection.tiling import detect_in_tiles, merge_tiles, tile_windows
from tests.detection.tiny_networks import tiny_fast_rcnn, tiny_rpn

CELL = Categories((1,), ("cell",))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def limited_to(detections: int) -> Detector:
    network = FasterRCNN(
        tiny_rpn(), tiny_fast_rcnn(classes=3), before_nms=None, proposals=1200, proposal_nms_iou=1.0, min_score=0.0,
        nms_iou=1.0, detections=detections,
    )  # fmt: skip
    return Detector(network, Categories((3, 7, 9), ("cat", "dog", "owl")), Augmentation((256,), 256))


def test_the_limit_is_the_detector_s(image: np.ndarray, tmp_path: Path) -> None:
    many, few = limited_to(3000)(image), limited_to(100)(image)
    assert 2000 < len(many) <= 3000
    assert len(few) == 100
    np.testing.assert_array_equal(many.boxes[:100], few.boxes)
    np.testing.assert_array_equal(many.labels[:100], few.labels)
    lengths = {len(as_dicts(many)), len(many.to_coco(1)), len(many.to_yolo(256, 256))}
    assert lengths == {len(many), len(many.to_labelme("a.jpg", 256, 256)["shapes"])} == {len(many)}


def test_tiles_give_as_many_as_the_image_has(image: np.ndarray) -> None:
    """40,000 objects, up to 1,700 in a tile; also that it takes seconds, not hours."""
    generator = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(0, 4000, 20), np.arange(0, 4000, 20)), axis=-1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + generator.integers(8, 18, corners.shape)], axis=1).astype(np.float32)
    windows = tile_windows(4000, 4000, 800, 0.2)
    found = []
    for window in windows:
        clipped = np.clip(boxes, window[[0, 1, 0, 1]], window[[2, 3, 2, 3]])
        seen = clipped[((clipped[:, 2:] - clipped[:, :2]) > 3).all(axis=1)] - window[[0, 1, 0, 1]]
        scores = np.linspace(0.9, 0.5, len(seen), dtype=np.float32)
        found.append(
            ImageDetections.of_labels(seen.astype(np.float32), scores, np.ones(len(seen), dtype=np.int64), CELL)
        )
    assert max(map(len, found)) > 1500
    merged = merge_tiles(found, windows, 4000, 4000)
    assert len(merged) == 40_000
    np.testing.assert_array_equal(np.unique(merged.boxes, axis=0), np.unique(boxes, axis=0))
    assert len(detect_in_tiles(limited_to(2000), image, 160, 0.2)) > 1000


def test_drawing_thousands_takes_no_minutes(image: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "image.png")
    summary = predict(limited_to(3000), [tmp_path / "image.png"], tmp_path / "out", min_score=0.0)
    assert summary.detections > 2000
