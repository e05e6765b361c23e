"""Synthetic COCO annotation files of any size, written block by block: the same file for the same numbers.

Images are 640 × 480, named by their numbers; every tenth has no object, as in Open Images, and the objects are spread
over the others at random.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import numpy as np

CATEGORIES = 80
HEIGHT, WIDTH = 480, 640
_BLOCK = 100_000  # entries that are in memory at a time
_DISTINCT = 997  # outlines
_POINTS = {"none": None, "short": (4, 5), "long": (8, 40)}  # of an outline, from … to below; "long" as in COCO

Outlines = Literal["none", "short", "long"]


def write_annotations(
    path: Path, images: int, objects: int, categories: int = CATEGORIES, outlines: Outlines = "long"
) -> None:
    """Writes a COCO-format file. outlines: whether each object has a polygon, and how long."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="ascii") as file:
        file.write('{"info": {}, "images": [')
        _write_list(file, _images(images))
        file.write('], "annotations": [')
        _write_list(file, _objects(random, images, objects, categories, _outlines(random, outlines)))
        file.write('], "categories": ')
        listed = [{"supercategory": "thing", "id": i, "name": f"thing {i}"} for i in range(1, categories + 1)]
        file.write(json.dumps(listed) + "}")


def _write_list(file: IO[str], blocks: Iterator[str]) -> None:
    for number, block in enumerate(blocks):
        file.write(f"{', ' * (number > 0)}{block}")


def _outlines(random: np.random.Generator, kind: Outlines) -> list[str]:
    """What stands before an object's other members."""
    points = _POINTS[kind]
    if points is None:
        return [""] * _DISTINCT
    polygons = (random.uniform(0, HEIGHT, 2 * int(random.integers(*points))).round(2) for _ in range(_DISTINCT))
    return [f'"segmentation": {json.dumps([polygon.tolist()])}, ' for polygon in polygons]


def _images(count: int) -> Iterator[str]:
    form = (
        '{"license": 3, "file_name": "%012d.jpg", "height": %d, "width": %d, '
        '"coco_url": "http://example.invalid/%012d.jpg", "date_captured": "2013-11-14", "id": %d}'
    )
    for begin in range(1, count + 1, _BLOCK):
        numbers = range(begin, min(begin + _BLOCK, count + 1))
        yield ", ".join([form % (number, HEIGHT, WIDTH, number, number) for number in numbers])


def _objects(
    random: np.random.Generator, images: int, count: int, categories: int, outlines: list[str]
) -> Iterator[str]:
    form = (
        '{%s"area": %.4f, "iscrowd": 0, "image_id": %d, "bbox": [%.2f, %.2f, %.2f, %.2f], "category_id": %d, "id": %d}'
    )
    for begin in range(1, count + 1, _BLOCK):
        numbers = range(begin, min(begin + _BLOCK, count + 1))
        owners = random.integers(0, images, len(numbers))
        owners += (owners % 10 == 9) & (owners + 1 < images)
        corners = random.uniform(0, 400, (len(numbers), 2)).T.tolist()
        sides = random.uniform(2, 80, (len(numbers), 2))
        columns = (
            (outlines[number % _DISTINCT] for number in numbers),
            sides.prod(axis=1).tolist(),
            (owners + 1).tolist(),
            *corners,
            *sides.T.tolist(),
            random.integers(1, categories + 1, len(numbers)).tolist(),
            numbers,
        )
        yield ", ".join([form % row for row in zip(*columns, strict=True)])
