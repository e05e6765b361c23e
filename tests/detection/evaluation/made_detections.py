"""A seed → ground truth drawn at random, and detections with mistakes of every kind.

The numbers come from `random.Random`, whose sequence Python keeps from version to version; numpy promises less.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from detection.evaluation.ground_truth import GroundTruth
from detection.experiment.ground_truth_loading import load_ground_truth

NAMES = ("cat", "dog", "bird")
WIDTH, HEIGHT = 640, 480


def made_ground_truth(
    seed: int = 0, images: int = 30, objects: int = 6, crowds: bool = False, smallest: float = 12.0
) -> dict[str, Any]:
    """The content of a COCO annotation file; every image has `objects` objects, every fifth a crowd region if asked."""
    draw = random.Random(seed)
    content: dict[str, Any] = {
        "images": [
            {"id": 10 + i, "width": WIDTH, "height": HEIGHT, "file_name": f"{10 + i}.jpg"} for i in range(images)
        ],
        "categories": [{"id": 3 * k + 2, "name": name} for k, name in enumerate(NAMES)],
        "annotations": [],
    }
    for image in content["images"]:
        for number in range(objects):
            width = smallest * 10 ** draw.uniform(0, 1.2)
            height = min(HEIGHT - 10.0, width * 2 ** draw.uniform(-1, 1))
            x, y = draw.uniform(0, WIDTH - width), draw.uniform(0, HEIGHT - height)
            box = [round(value, 2) for value in (x, y, width, height)]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 3 * draw.choices(range(3), (6, 3, 1))[0] + 2,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowds and number == 0 and image["id"] % 5 == 0),
                }
            )
    return content


def made_detections(
    content: dict[str, Any], seed: int = 0, *, faults: float = 0.2, find: Callable[[dict[str, Any]], bool] | None = None
) -> np.ndarray:
    """Rows (D, 7): each object is found (if `find` says so of its annotation) by a good box; and with the probability
    `faults` each, by another class, a poor box, a second box, and in the image a box where there is nothing. Mistakes
    have lower scores on average."""
    draw = random.Random(seed + 1000)
    ids = [category["id"] for category in content["categories"]]
    rows: list[list[float]] = []

    def add(annotation: dict[str, Any], spread: float, category: int, score: float) -> None:
        x, y, width, height = annotation["bbox"]
        moved = [x + draw.gauss(0, spread) * width, y + draw.gauss(0, spread) * height]
        sides = [width * 2 ** draw.gauss(0, spread), height * 2 ** draw.gauss(0, spread)]
        rows.append([annotation["image_id"], *moved, *sides, score, category])

    for annotation in content["annotations"]:
        category = annotation["category_id"]
        other = draw.choice([one for one in ids if one != category])
        if (find is None or find(annotation)) and draw.random() >= faults / 2:
            add(annotation, 0.03, category, draw.betavariate(6, 2))
        for spread, named in ((0.03, other), (0.3, category), (0.3, other), (0.05, category)):
            if draw.random() < faults:
                add(annotation, spread, named, draw.betavariate(2, 3))
    for image in content["images"]:
        if draw.random() < 2 * faults:
            box = [draw.uniform(0, 300), draw.uniform(0, 200), draw.uniform(20, 200), draw.uniform(20, 200)]
            rows.append([image["id"], *box, draw.betavariate(2, 4), draw.choice(ids)])
    return np.array(rows).reshape(-1, 7)


def loaded(content: dict[str, Any]) -> GroundTruth:
    return load_ground_truth(content)


def as_results(rows: np.ndarray) -> list[dict[str, Any]]:
    """Rows (D, 7) as the entries of a COCO results file."""
    return [
        {"image_id": int(row[0]), "bbox": row[1:5], "score": row[5], "category_id": int(row[6])}
        for row in rows.tolist()
    ]
