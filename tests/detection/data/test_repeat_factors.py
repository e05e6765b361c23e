"""Repeat factors: against the loops of the LVIS paper's definition."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from detection.data.index import load_index
from detection.data.repeat_factors import repeat_factors


def test_factors_are_those_of_the_papers_definition(tmp_path: Path) -> None:
    """Class 1 is in most images, 2 in some, 3 in one, 4 in none; one image is empty, one holds a crowd region only."""
    draw = np.random.default_rng(0)
    classes = [[1] * int(draw.integers(1, 4)) + [2] * int(draw.random() < 0.2) for _ in range(38)]
    classes += [[1, 3, 3], [], [4]]
    annotations = [
        {
            "id": 100 * i + j,
            "image_id": i + 1,
            "category_id": c,
            "bbox": [1, 1, 5, 5],
            "area": 25,
            "iscrowd": int(c == 4),
        }
        for i, own in enumerate(classes)
        for j, c in enumerate(own, start=1)
    ]
    content = {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "width": 20, "height": 20} for i in range(len(classes))],
        "annotations": annotations,
        "categories": [{"id": c, "name": str(c)} for c in (1, 2, 3, 4)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    index = load_index(tmp_path / "a.json", None, name="train")

    having: dict[int, set[int]] = defaultdict(set)
    for entry in annotations:
        if not entry["iscrowd"]:
            having[entry["category_id"]].add(entry["image_id"])
    for threshold in (0.001, 0.3, 1.0):
        expected = [
            max((math.sqrt(threshold / (len(having[c]) / len(classes))) for c in own if c in having), default=1.0)
            for own in classes
        ]
        np.testing.assert_allclose(repeat_factors(index, threshold), np.maximum(expected, 1.0))
