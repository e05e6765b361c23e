"""Images to look at: drawn inside, legible, inputs left alone."""

from __future__ import annotations

import doctest

import cv2
import numpy as np
import pytest

from detection.report import drawing
from detection.report.drawing import (
    class_color,
    draw_detections,
    draw_ground_truth,
    enlargement,
    side_by_side,
)

NAMES = ["cat", "dog", "naïve 猫\nfish"]
BOXES = np.array([[20.0, 60, 220, 260], [300, 100, 500, 400]])


def grey(height: int = 480, width: int = 640) -> np.ndarray:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_boxes_lie_where_they_should_in_the_class_color() -> None:
    image = grey()
    drawn = draw_detections(image, BOXES, [1, 2], NAMES, [0.9, 0.8])
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()
    for box, label in zip(BOXES.astype(int), (1, 2), strict=True):
        for y, x in ((box[3] - 1, (box[0] + box[2]) // 2), ((box[1] + box[3]) // 2, box[0])):
            assert drawn[y, x].tolist() == list(class_color(label))
    assert (drawn[270:] == 128).all(axis=-1)[:, :290].all()  # nothing is drawn elsewhere
    assert (drawn[150:240, 40:200] == 128).all()  # nor inside a box


def test_ground_truth_is_dashed_and_crowds_are_hatched() -> None:
    drawn = draw_ground_truth(grey(), BOXES, [1, 2], NAMES, [False, True])
    edge = (drawn[259, 20:220] == class_color(1)).all(axis=-1)
    assert 0.3 < edge.mean() < 0.8
    inside = drawn[160:380, 310:490]
    assert 0.05 < (inside != 128).any(axis=-1).mean() < 0.6
    assert (drawn[150:240, 40:200] == 128).all()


def test_the_best_detection_lies_on_top() -> None:
    box = np.array([[100.0, 100, 300, 300]])
    for scores, winner in (([0.9, 0.2], 1), ([0.2, 0.9], 2)):
        drawn = draw_detections(grey(), np.repeat(box, 2, axis=0), [1, 2], NAMES, scores)
        assert drawn[299, 200].tolist() == list(class_color(winner))


def test_captions_stay_inside_and_do_not_cover_each_other() -> None:
    """Captions of boxes in the corners and of boxes on top of each other: every class colour shows a whole plate."""
    boxes = np.array(
        [[0.0, 0, 30, 20], [610, 0, 640, 20], [0, 460, 30, 480], [300, 200, 400, 300], [302, 202, 402, 302]]
    )
    image = grey()
    drawn = draw_detections(image, boxes, [1, 2, 3, 4, 5], list("abcde"), [0.9, 0.8, 0.7, 0.6, 0.5])
    for label in range(1, 6):
        plate = (drawn == class_color(label)).all(axis=-1)
        assert cv2.erode(plate.astype(np.uint8), np.ones((4, 4))).any(), label  # wider than a line


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 3), (40, 60), (2000, 3000)])
def test_any_size(size: tuple[int, int]) -> None:
    height, width = size
    boxes = np.array(
        [[0.0, 0, width, height], [-50, -50, 10_000, 10_000], [width / 2, height / 2, width / 2, height / 2]]
    )
    factor = enlargement(height, width)
    for drawn in (
        draw_detections(grey(height, width), boxes, [1, 2, 3], NAMES, [0.1, 0.2, 0.3]),
        draw_ground_truth(grey(height, width), boxes, [1, 2, 3], NAMES, [0, 1, 1]),
    ):
        assert drawn.shape == (height * factor, width * factor, 3)


def test_text_grows_with_the_image() -> None:
    def plate_height(scale: int) -> int:
        box = np.array([[100.0, 100, 300, 300]]) * scale
        drawn = draw_detections(grey(480 * scale, 640 * scale), box, [1], ["x" * 20])
        column = (drawn[:, 100 * scale + 1] == class_color(1)).all(axis=-1)  # the margin before the text
        return int(column[: 102 * scale].sum())

    assert 3.2 < plate_height(4) / plate_height(1) < 4.8


def test_no_boxes_and_no_scores() -> None:
    assert (draw_detections(grey(), np.zeros((0, 4)), [], NAMES) == 128).all()
    assert (draw_ground_truth(grey(), np.zeros((0, 4)), [], NAMES) == 128).all()
    assert (draw_detections(grey(), BOXES, [3, 99], NAMES) != 128).any()  # a label without a name


def test_read_only_and_reversed_images() -> None:
    image = grey()[:, :, ::-1]
    image.flags.writeable = False
    draw_detections(image, BOXES, [1, 2], NAMES)
    draw_detections(grey(100, 100)[:, ::-1], BOXES, [1, 2], NAMES)


def test_colors_are_stable_and_distinct() -> None:
    colors = [class_color(label) for label in range(1, 81)]
    assert colors == [class_color(label) for label in range(1, 81)]
    assert len(set(colors)) == 80
    first = np.array(colors[:12], dtype=float)
    distances = np.linalg.norm(first[:, None] - first, axis=-1) + 1e3 * np.eye(12)
    assert distances.min() > 50


def test_side_by_side() -> None:
    left, right = grey(300, 400), np.full((200, 500, 3), 7, dtype=np.uint8)
    both = side_by_side(left, right)
    assert both.shape[1] > 900
    assert both.shape[0] > 300
    bar = both.shape[0] - 300
    np.testing.assert_array_equal(both[bar:, :400], left)
    np.testing.assert_array_equal(both[bar : bar + 200, -500:], right)
    assert (both[:bar] < 100).any()  # the titles


def test_worked_example() -> None:
    outcome = doctest.testmod(drawing)
    assert outcome.attempted > 0
    assert outcome.failed == 0
