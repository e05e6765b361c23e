"""Splits → `annotations/instances_<split>.json` in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection.data.writers.objects import Split


def write_labels(folder: Path, splits: list[Split], categories: Mapping[str, int]) -> list[str]:
    """See `Writer`. Ids of images and categories are those of the index; images lie in `images/<split>/`.

    categories: class name → id.
    """
    (folder / "annotations").mkdir(parents=True)
    for split in splits:
        content = content_of(split, [(number, name) for name, number in categories.items()])
        path = folder / "annotations" / f"instances_{split.name}.json"
        # Bytes of a file's name that are no UTF-8 are lone surrogates, which this writes as JSON's escapes.
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")
    return []


def content_of(split: Split, categories: Sequence[tuple[int, str]], decimals: int | None = 9) -> dict[str, Any]:
    """What the annotation file of a split holds. The objects are numbered from 1 on.

    categories: (id, name) of each. decimals: that boxes and areas are rounded to; None: the exact numbers.
    """
    index, objects = split.index, split.objects
    images = [
        {
            "id": int(index.image_ids[i]),
            "file_name": name,
            "height": int(index.heights[i]),
            "width": int(index.widths[i]),
        }
        for i, name in enumerate(split.files)
    ]
    annotations = [
        {
            "id": row + 1,
            "image_id": int(index.image_ids[i]),
            "category_id": int(index.category_ids[objects.labels[row] - 1]),
            "bbox": [_plain(number, decimals) for number in objects.boxes[row].tolist()],
            "area": _plain(float(objects.areas[row]), decimals),
            "iscrowd": int(objects.crowds[row]),
        }
        for i in range(len(index))
        for row in range(int(objects.offsets[i]), int(objects.offsets[i + 1]))
    ]
    listed = [{"id": number, "name": name} for number, name in categories]
    return {"images": images, "annotations": annotations, "categories": listed}


def image_folder(split: str) -> str:
    """Where the images of a split lie."""
    return f"images/{split}"


def _plain(number: float, decimals: int | None) -> int | float:
    if number.is_integer():
        return int(number)
    return number if decimals is None else round(number, decimals)
