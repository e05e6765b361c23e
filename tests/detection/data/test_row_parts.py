"""Tables computed in parts equal those computed at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detection.data import repairs, row_parts
from detection.data.growing_columns import GrowingColumns
from detection.data.index import DatasetIndex, load_index
from detection.data.row_parts import by_image
from detection.data.tables import MISSING


@pytest.mark.parametrize("ordered", [True, False])
def test_rows_are_grouped_as_by_a_sort_of_several_keys(ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_parts, "ROWS", 7)
    random = np.random.default_rng(0)
    kept, images = random.random(200) < 0.8, random.integers(0, 30, 200).astype(np.int32)
    order = None if ordered else random.integers(-5, 60, 200)
    rows, offsets = by_image(kept, images, 31, order)
    candidates = np.flatnonzero(kept)
    within: np.ndarray = candidates if order is None else order[candidates]
    assert rows.tolist() == candidates[np.lexsort((candidates, within, images[candidates]))].tolist()
    assert np.diff(offsets).tolist() == np.bincount(images[candidates], minlength=31).tolist()


def test_columns_are_as_wide_as_their_numbers() -> None:
    blocks = [[1, 2], [], [-40_000], [3], [2**40, MISSING]]
    for end, dtype in ((0, np.int16), (1, np.int16), (2, np.int16), (3, np.int32), (4, np.int32), (5, np.int64)):
        columns = GrowingColumns(narrow=True)
        columns.add([np.zeros(0, np.int64), np.zeros((0, 4))])
        for block in blocks[:end]:
            columns.add([np.array(block, dtype=np.int64), np.full((len(block), 4), 0.1)])
        numbers, boxes = columns.finish()
        assert numbers.dtype == dtype
        assert numbers.tolist() == [number for block in blocks[:end] for number in block]
        assert boxes.dtype == np.float64
        assert boxes.tolist() == [[0.1] * 4] * len(numbers)


@pytest.mark.parametrize("largest", [400, 2**40])  # of the ids: in two bytes each, or in eight
@pytest.mark.parametrize("defects", [False, True])
def test_an_index_in_parts_equals_one_made_at_once(
    largest: int, defects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the parts are objects of every defect, so that the examples of a finding come from several parts."""
    random = np.random.default_rng(0)
    images = [{"id": i * largest // 40, "file_name": f"{i}.png", "height": 40, "width": 60} for i in range(1, 41)]
    annotations: list[dict[str, Any]] = []
    for number in random.permutation(300).tolist():
        box = [*random.uniform(0, 20, 2).round(3), *random.uniform(1, 20, 2).round(3)]
        if defects:
            box = [box, [1, 1, 0, 5], [70, 1, 3, 3], [50, 30, 30, 30], [5, 5, 1e-30, 1e-30]][number % 5]
        image, category = images[int(random.integers(40))]["id"], int(random.integers(1, 4))
        if defects and number % 7 == 0:
            image = 7
        annotations.append(
            {"id": number + 1, "image_id": image, "category_id": category, "bbox": box, "area": 3, "iscrowd": 0}
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": f"{i}"} for i in (1, 2, 3)],
    }

    def load(rows: int) -> DatasetIndex:
        monkeypatch.setattr(row_parts, "ROWS", rows)
        monkeypatch.setattr(repairs, "ROWS", rows)
        return load_index(content, "images", name="test", purpose="training")

    whole, parts = load(1 << 18), load(11)
    assert parts.fingerprint == whole.fingerprint
    assert parts.findings.by_kind == whole.findings.by_kind
    examples = [
        [(one.image, one.box) for finding in index.findings.by_kind.values() for one in finding.examples]
        for index in (parts, whole)
    ]
    assert examples[0] == examples[1]
    evaluated = load_index(content, "images", name="test", purpose="evaluation")  # boxes are not overwritten for it
    assert evaluated.fingerprint == whole.fingerprint
    assert evaluated.findings.by_kind == whole.findings.by_kind
    kept = sorted(annotations, key=lambda one: (one["image_id"], one["id"]))
    by_id = {image["id"]: image for image in images}
    stated = [
        [one["id"], one["category_id"], min(one["bbox"][0] + one["bbox"][2], 60)]
        for one in kept
        if one["image_id"] in by_id and one["bbox"][2] > 1e-3 and one["bbox"][0] < 60
    ]
    found = np.stack([whole.annotation_ids, whole.labels, whole.boxes[:, 2]], axis=1)
    np.testing.assert_allclose(found, stated, rtol=1e-6)
