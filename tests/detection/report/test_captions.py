"""Where captions go: where they hide little, and see-through where they lie on an object."""

from __future__ import annotations

import numpy as np
import pytest

from detection.report.captions import PAPER, _common, _places, draw_captions, text_size, titled

RED = (222, 40, 40)
SHAPE = (400, 600)


def grey() -> np.ndarray:
    return np.full((*SHAPE, 3), 128, dtype=np.uint8)


def changed(canvas: np.ndarray) -> np.ndarray:
    return (canvas != 128).any(axis=-1)


def draw(boxes: list[list[int]], texts: list[str]) -> np.ndarray:
    canvas = grey()
    draw_captions(canvas, np.array(boxes).reshape(-1, 4), texts, [RED] * len(texts))
    return canvas


@pytest.mark.parametrize(
    "box",
    [
        [100, 100, 300, 300],  # room on all sides
        [100, 0, 300, 300],  # none above
        [100, 0, 300, 399],  # none above and below
        [0, 0, 300, 399],  # room on the right alone
        [300, 0, 599, 399],  # on the left alone
    ],
)
def test_no_object_is_hidden_where_there_is_room(box: list[int]) -> None:
    canvas = draw([box], ["person 0.93"])
    assert changed(canvas).sum() > 500
    assert not changed(canvas)[box[1] : box[3] + 1, box[0] : box[2] + 1].any()
    assert (canvas == RED).all(axis=-1).any()


def test_a_caption_avoids_the_other_objects() -> None:
    boxes = [[100, 150, 200, 250], [90, 90, 260, 149]]  # the second where the first's caption would stand
    canvas = draw(boxes, ["cat", "dog"])
    for x0, y0, x1, y1 in boxes:
        assert not changed(canvas)[y0 : y1 + 1, x0 : x1 + 1].any()


def test_on_an_object_a_plate_is_see_through() -> None:
    random = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    canvas = random.copy()
    draw_captions(canvas, np.array([[0, 0, 599, 399]]), ["person 0.93"], [RED])
    rows, columns = np.nonzero((canvas != random).any(axis=-1))
    plate = canvas[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
    assert plate.shape[0] < 30
    assert not (plate == RED).all(axis=-1).all()
    beneath = random[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
    np.testing.assert_allclose(plate[:, 0], 0.6 * np.array(RED) + 0.4 * beneath[:, 0], atol=1)  # before the text
    luma = plate @ [0.299, 0.587, 0.114]
    assert luma.max() > 240  # white letters
    # a rim of the plate's colour around them
    assert ((np.abs(plate - RED) < 8).all(axis=-1)).sum() > 100


def test_captions_do_not_cover_each_other_while_there_is_room() -> None:
    boxes = [[250 + 2 * n, 150 + 2 * n, 350 + 2 * n, 250 + 2 * n] for n in range(4)]
    plates = _places(SHAPE, np.array(boxes), [40, 60, 50, 40], 17)
    common = _common(plates[:, None], plates)
    assert common.diagonal().tolist() == [40 * 17, 60 * 17, 50 * 17, 40 * 17]
    assert common.sum() == common.diagonal().sum()


@pytest.mark.parametrize("shape", [(1, 1), (5, 600), (600, 5), (20, 20)])
def test_canvases_smaller_than_a_plate(shape: tuple[int, int]) -> None:
    canvas = np.full((*shape, 3), 128, dtype=np.uint8)
    draw_captions(canvas, np.array([[0, 0, shape[1] - 1, shape[0] - 1]] * 3), ["a long caption"] * 3, [RED] * 3)
    assert canvas.shape == (*shape, 3)
    assert titled(canvas, "a long title", 700).shape[1] == shape[1]


def test_no_captions() -> None:
    assert not changed(draw([], [])).any()


def test_a_title_stands_above_its_image() -> None:
    image = grey()
    column = titled(image, "größe", 410)
    bar = column.shape[0] - 410
    assert np.array_equal(column[bar : bar + 400], image)
    assert (column[bar + 400 :] == PAPER).all()
    assert (column[:bar] < 100).any()
    assert text_size(image) == 12
    assert text_size(np.zeros((4000, 3000, 3))) == 77
