"""Boxes on an image as stored, turned with it: against painted pixels that a viewer's words turn."""

from __future__ import annotations

import numpy as np
import pytest

from detection.data.orientation import is_as_stored, turn, turn_back, turn_boxes
from tests.detection.data.oriented_images import upright


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_pixels(orientation: int) -> None:
    boxes = np.array([[10, 5, 20, 10], [0, 0, 1, 40], [79, 30, 1, 10], [0, 0, 80, 40]])
    for box in boxes.tolist():
        stored = np.zeros((40, 80), dtype=np.uint8)
        stored[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
        seen = upright(stored, orientation)
        rows, columns = np.nonzero(seen)
        expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert turn_boxes(np.array([box]), orientation, seen.shape).tolist() == [expected]
        np.testing.assert_array_equal(turn(stored, orientation), seen)
        np.testing.assert_array_equal(turn_back(seen, orientation), stored)
    assert turn_boxes(np.zeros((0, 4)), orientation, (40, 80)).shape == (0, 4)


def test_only_swapped_sides_show_that_annotations_were_made_on_the_stored_pixels() -> None:
    assert is_as_stored((40, 80), (80, 40), 6)
    assert not is_as_stored((80, 40), (80, 40), 6)
    assert not is_as_stored((40, 80), (80, 40), 3)
    assert not is_as_stored((40, 40), (40, 40), 6)
    assert not is_as_stored((41, 80), (80, 40), 6)
