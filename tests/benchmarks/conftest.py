"""A data set of four drawn images and a configuration that trains on it in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

CONFIG = """
name: tiny
data:
  layout: files
  train: {name: train, annotations: all.json, images: images}
  test: {name: test, annotations: all.json, images: images}
  shorter_sides: [64]
  longer_side: 64
  test_shorter_side: 64
  test_longer_side: 64
backbone: {name: resnext14_8x16d_small, weights: null, norm: batch, freeze: null, planes: 8, stem_width: 8}
rpn:
  anchor_sizes: [16, 32]
  channels: 32
  allowed_border: null
  training_proposals: {before_nms: 50, after_nms: 20, min_side: 0}
  test_proposals: {before_nms: 50, after_nms: 10, min_side: 0}
  training: &none
    {global_batch: 2, images_per_device: 2, learning_rate: 0.01, learning_rate_batch: 2, steps: 2, milestones: []}
fast_rcnn:
  pooling: align
  pooled_size: 4
  samples: 8
  training: {global_batch: 2, images_per_device: 2, learning_rate: 0.01, learning_rate_batch: 2, steps: 2,
    milestones: []}
runtime: {device: cpu, workers: 0, tensorboard: false}
""".replace(" &none", "")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
    for number in range(1, 5):
        image = random.integers(0, 60, (64, 64, 3), dtype=np.uint8)
        x, y = random.integers(0, 40, 2).tolist()
        image[y : y + 20, x : x + 20] = 220
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, 20, 20], "area": 400, "iscrowd": 0}
        content["annotations"].append(box)
    (folder / "all.json").write_text(json.dumps(content))
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return folder
