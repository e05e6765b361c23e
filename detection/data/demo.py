"""A seed → a small data set in COCO's layout, drawn by this project; `make demo` trains on it.

    folder/annotations/instances_train.json, instances_test.json     COCO format; crowds as RLE, outlines as polygons
    folder/train/000001.jpg …, folder/test/000001.jpg …
    folder/demo.json                                                 what made it, and a digest of every file

The same seed and versions give the same bytes. An incomplete folder is completed. A folder with any file that was not
drawn here is refused and left unchanged (`demo_folder.py`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backbones.common.progress import with_progress
from detection.data.demo_drawing import CLASSES, DrawnObject, draw_image
from detection.data.demo_folder import DemoFolder, Drawing

VERSION = 1  # raised whenever the same seed gives other images
JPEG_QUALITY = 95


def demo_files(folder: Path, split: str) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split, "train" or "test", of the data set in `folder`."""
    return folder / "annotations" / f"instances_{split}.json", folder / split


def make_demo_dataset(folder: str | os.PathLike[str], *, train: int = 300, test: int = 100, seed: int = 0) -> None:
    """Draws `train` and `test` images with their annotations into `folder`, unless it already holds exactly these.
    Files that were drawn there by another version or with other numbers are replaced. If several processes call this at
    once, one draws, and the others wait for it.

    Raises:
        UserError: the folder holds something else; it cannot be written.
    """
    folder = Path(folder)
    libraries = {"numpy": np.__version__, "opencv": cv2.__version__}
    making = {"version": VERSION, "train": train, "test": test, "seed": seed, "libraries": libraries}
    own = DemoFolder(folder)
    if not own.is_whole(making):
        with own.drawing(making) as drawing:
            if drawing is not None:
                _draw_split(drawing, folder, "train", train, (seed, 0))
                _draw_split(drawing, folder, "test", test, (seed, 1))


def _draw_split(drawing: Drawing, folder: Path, split: str, count: int, seed: tuple[int, int]) -> None:
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(CLASSES)],
    }
    for i in with_progress(range(1, count + 1), count, f"drawing {folder / split}"):
        drawn = draw_image(np.random.default_rng((*seed, i)))
        height, width = drawn.image.shape[:2]
        name = f"{i:06d}.jpg"
        reversed_channels = cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", reversed_channels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        drawing.put(f"{split}/{name}", encoded.tobytes())
        content["images"].append({"id": i, "file_name": name, "height": height, "width": width})
        for one in drawn.objects:
            content["annotations"].append(_annotation(one, i, len(content["annotations"]) + 1))
    drawing.put(f"annotations/instances_{split}.json", json.dumps(content).encode())


def _annotation(drawn: DrawnObject, image_id: int, annotation_id: int) -> dict[str, Any]:
    """An object as a COCO annotation; the box encloses its visible pixels."""
    rows, columns = np.flatnonzero(drawn.mask.any(axis=1)), np.flatnonzero(drawn.mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": drawn.label + 1,
        "iscrowd": int(drawn.crowd),
        "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
        "area": int(drawn.mask.sum()),
        "segmentation": run_lengths(drawn.mask) if drawn.crowd else _polygons(drawn.mask),
    }


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask (H, W) in COCO's uncompressed run-length code: lengths of the runs down the columns, alternately of 0 and
    of 1.

    >>> run_lengths(np.array([[0, 1], [1, 1]], dtype=bool))
    {'counts': [1, 3], 'size': [2, 2]}
    """
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate([[0] if not flat[0] else [0, 0], changes, [len(flat)]])
    return {"counts": np.diff(bounds).tolist(), "size": list(mask.shape)}


def _polygons(mask: np.ndarray) -> list[list[float]]:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(outline.reshape(-1) + 0.5).tolist() for outline in outlines if len(outline) >= 3]
