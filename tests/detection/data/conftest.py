"""Small COCO-format files and images for the data room's tests."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detection.data.index import DatasetIndex, load_index

SOUND: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 3, "file_name": "b.png", "height": 50, "width": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 20, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0.5, 0, 59.5, 40], "area": 2380, "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 20, "bbox": [10, 10, 5, 5], "area": 20.5, "iscrowd": 0},
    ],
    "categories": [{"id": 20, "name": "twenty"}, {"id": 5, "name": "five"}],
}


@pytest.fixture
def sound() -> dict[str, Any]:
    """A file's content without a defect, free to be changed."""
    return copy.deepcopy(SOUND)


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict[str, Any]], DatasetIndex]:
    """Writes a file's content and loads it."""

    def write_and_load(content: dict[str, Any]) -> DatasetIndex:
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return load_index(path, tmp_path / "images", name="test")

    return write_and_load


@pytest.fixture
def make_index(tmp_path: Path) -> Callable[..., DatasetIndex]:
    """Draws images of the given (height, width) with a box or two on each, and loads their index."""

    def make(sizes: list[tuple[int, int]]) -> DatasetIndex:
        random = np.random.default_rng(len(sizes))
        folder = tmp_path / "drawn"
        folder.mkdir(exist_ok=True)
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        for i, (height, width) in enumerate(sizes):
            cv2.imwrite(str(folder / f"{i}.png"), random.integers(0, 256, (height, width, 3), dtype=np.uint8))
            content["images"].append({"id": 100 + i, "file_name": f"{i}.png", "height": height, "width": width})
            for _ in range(1 + i % 2):
                x, y = random.uniform(0, width / 2), random.uniform(0, height / 2)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 100 + i,
                        "category_id": 1,
                        "bbox": [round(x, 2), round(y, 2), round(width / 3, 2), round(height / 3, 2)],
                        "area": 1.0,
                        "iscrowd": 0,
                    }
                )
        path = tmp_path / "drawn.json"
        path.write_text(json.dumps(content))
        return load_index(path, folder, name="drawn")

    return make
