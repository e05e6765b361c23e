"""A seed → a folder of JPEGs that cost a decoder what photographs cost, with boxes, in COCO's format.

A photograph holds about as much contrast in each octave of detail, less in the finest, and sharp edges: clouds of noise
are added up octave by octave, and blobs of plain colour are laid over them. With these constants an image of 640 × 480
has the bytes of an average one of COCO's.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from detection.data.index import DatasetIndex, load_index

SIZE = (480, 640)  # height, width; COCO's most frequent
OBJECTS = 7  # an image, COCO's average
JPEG_QUALITY = 89
_OCTAVE = 16.0  # standard deviation of each octave of detail, in steps of 0–255
_GRAIN = 7.0  # the same for the finest, single pixels
_BLOBS = 12
_CLASSES = 80


def photographs(folder: Path, count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> DatasetIndex:
    """Draws `count` images of `size` (height, width) into `folder`, with an annotation file, and opens them."""
    random = np.random.default_rng(seed)
    height, width = size
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, count + 1):
        name = f"{i:06d}.jpg"
        cv2.imwrite(str(folder / name), draw(random, size), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        for corner in random.uniform(0, 0.8, (OBJECTS, 2)):
            x, y = corner * (width, height)
            w, h = random.uniform(0.02, 0.2, 2) * (width, height)
            annotation = {"id": len(annotations) + 1, "image_id": i, "category_id": int(random.integers(_CLASSES)) + 1}
            annotations.append({**annotation, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    categories = [{"id": i, "name": f"thing {i}"} for i in range(1, _CLASSES + 1)]
    listing = folder / "annotations.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    listing.write_text(json.dumps(content), encoding="utf-8")
    return load_index(listing, folder, name="photographs")


def draw(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """One image, uint8 (H, W, 3)."""
    height, width = size
    grain = random.standard_normal((height, width, 1), dtype=np.float32)
    image = random.uniform(80, 170, 3).astype(np.float32) + grain * np.float32(_GRAIN)
    cells = 2
    while cells < width:
        shape = (max(2, cells * height // width), cells)
        grey, tint = random.normal(0, 1, (*shape, 1)), random.normal(0, 0.3, (*shape, 3))
        clouds = cv2.resize((grey + tint).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        image += clouds * np.float32(_OCTAVE)
        cells *= 2
    for _ in range(_BLOBS):
        center = (random.random(2) * (width, height)).astype(int).tolist()
        axes = (random.uniform(0.02, 0.2, 2) * height).astype(int).tolist()
        mask = np.zeros(size, dtype=np.uint8)
        cv2.ellipse(mask, center, axes, random.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
        image += mask[:, :, None] * random.normal(0, 40 / 255, 3).astype(np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
