"""Classes in the order of those of another split or of a detector."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.data.index import DatasetIndex, load_index
from detection.experiment.class_matching import match_classes
from detection.experiment.ground_truth_loading import ground_truth_of


def index_of(classes: list[tuple[int, str]]) -> DatasetIndex:
    """An image with an object of each class, whose left edge is the class's place in the list."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [
            {"id": 1 + i, "image_id": 1, "category_id": number, "bbox": [i, 2, 10, 20], "area": 9, "iscrowd": 0}
            for i, (number, _) in enumerate(classes)
        ],
        "categories": [{"id": number, "name": name} for number, name in classes],
    }
    return load_index(content, "nowhere", name="test", purpose="evaluation")


def test_classes_are_matched_by_name_and_a_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    index = index_of([(3, "cat"), (7, "dog"), (9, "cow")])
    with caplog.at_level(logging.INFO):
        assert match_classes(index, [3, 7, 9], ["cat", "dog", "cow"], "train.json") is index
    assert caplog.messages == []
    with caplog.at_level(logging.INFO):
        matched = match_classes(index, np.array([0, 1, 2]), ["dog", "cow", "cat"], "train.json")
    [line] = caplog.messages
    assert line == (
        "the annotations in memory: its classes are matched by name with those of train.json, where they have other "
        "ids: dog (id 7, 0 there), cow (id 9, 1 there), cat (id 3, 2 there)"
    )
    assert matched.category_names == ["dog", "cow", "cat"]
    assert matched.category_ids.tolist() == [7, 9, 3]
    boxes, labels, _ = matched.objects(0)
    assert dict(zip(boxes[:, 0].tolist(), labels.tolist(), strict=True)) == {0: 3, 1: 1, 2: 2}
    assert matched.fingerprint == index.fingerprint
    for name in ("category_ids", "object_category_ids", "boxes", "category_names"):
        np.testing.assert_array_equal(getattr(ground_truth_of(matched), name), getattr(ground_truth_of(index), name))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([(1, "cat")], "only the former lists no other; only the latter 'dog'"),
        ([(1, "cat"), (2, "dog"), (3, "cow")], "only the former lists 'cow'; only the latter no other"),
        ([(1, "cat"), (2, "Dog")], "only the former lists 'Dog'; only the latter 'dog'"),
        ([(1, "cat"), (2, "dog"), (3, "dog")], "only the former lists 'dog'"),
    ],
)
def test_other_classes_are_refused(classes: list[tuple[int, str]], said: str) -> None:
    with pytest.raises(UserError, match="its classes are not those of the detector: " + said):
        match_classes(index_of(classes), [1, 2], ["cat", "dog"], "the detector")


def test_a_name_of_two_ids_matches_only_with_its_id() -> None:
    index = index_of([(1, "cat"), (2, "dog"), (3, "dog")])
    matched = match_classes(index, [3, 2, 1], ["dog", "dog", "cat"], "the detector")
    assert matched.category_ids.tolist() == [3, 2, 1]
    with pytest.raises(UserError, match=r"only the former lists \(3, 'dog'\); only the latter \(4, 'dog'\)"):
        match_classes(index, [1, 2, 4], ["cat", "dog", "dog"], "the detector")
