"""When the detections of a file count as those of the detector, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.common.categories import Categories
from detection.detector_interface import ImageDetections
from detection.export.verification import Image, Verification, difference, verify

CLASSES = Categories((1, 2), ("cat", "dog"))


def found(
    boxes: Any = ((0, 0, 10, 10), (20, 20, 30, 30), (0, 0, 10, 10)),
    scores: Any = (0.9, 0.8, 0.5),
    labels: Any = (1, 1, 2),
) -> ImageDetections:
    return ImageDetections.of_labels(
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        CLASSES,
    )


NONE = found((), (), ())


def test_equal_detections_and_none() -> None:
    assert difference(found(), found()) == (0, 0)
    assert difference(NONE, NONE) == (0, 0)


def test_the_largest_differences_are_told() -> None:
    got = found(boxes=((0, 0, 10, 10), (20, 20, 30, 30.25), (0, 0.125, 10, 10)), scores=(0.9, 0.8, 0.5005))
    box, score = difference(got, found())
    assert box == 0.25
    assert score == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (NONE, "0 detections instead of 3"),
        (found(labels=(1, 2, 2)), r"no cat of score 0.8000 at \[20.0, 20.0, 30.0, 30.0\]"),
        (found(scores=(0.9, 0.798, 0.5)), "no cat of score 0.8"),
        (found(boxes=((0, 0, 10, 10.6), (20, 20, 30, 30), (0, 0, 10, 10))), "no cat of score 0.9"),
        (found(boxes=((0, 0, 10, np.nan), (20, 20, 30, 30), (0, 0, 10, 10))), "no cat of score 0.9"),
        (found(scores=(0.8, 0.9, 0.5)), "no cat of score 0.9"),  # each box with the other's score
        (found(boxes=((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 10))), "no cat of score 0.8"),
    ],
)
def test_other_detections(changed: ImageDetections, message: str) -> None:
    with_message = difference(changed, found())
    assert isinstance(with_message, str)
    assert re.search(message, with_message)


def test_the_order_of_ties_does_not_matter() -> None:
    tied = found(scores=(0.8, 0.8, 0.5))
    swapped = found(boxes=((20, 20, 30, 30), (0, 0, 10, 10), (0, 0, 10, 10)), scores=(0.8, 0.8, 0.5))
    assert difference(swapped, tied) == (0, 0)


def images(count: int) -> list[Image]:
    return [Image(f"{number}.png", number, np.full((4, 4, 3), number, dtype=np.uint8)) for number in range(count)]


def by_number(**special: ImageDetections) -> Callable[[list[np.ndarray]], list[ImageDetections]]:
    """Finds `found()` in every image, but something else in some, by "image0" and so on."""
    return lambda pixels: [special.get(f"image{int(image[0, 0, 0])}", found()) for image in pixels]


def run(file: Any, *rounded_otherwise: Any, count: int = 12) -> Verification:
    return verify(file, by_number(), rounded_otherwise, images(count), count, of="some images")


def test_all_images_are_compared() -> None:
    result = run(by_number(image11=found(boxes=((0, 0, 10, 10.25), (20, 20, 30, 30), (0, 0, 10, 10)))), by_number())
    assert (result.images, result.detections, result.undecided, result.box_difference) == (12, 36, 0, 0.25)
    assert "verified on 12 images (some images): 36 detections" in result.summary()
    assert result.to_dict() == dataclasses.asdict(result)


def test_an_image_that_differs_is_named() -> None:
    special = {f"image{number}": NONE for number in range(3, 10)}
    with pytest.raises(UserError) as caught:
        run(by_number(**special), by_number())
    message = str(caught.value)
    assert "nothing is written: " in message
    assert "in 7 of 12 images" in message
    assert "3.png: 0 detections instead of 3; 4.png" in message
    assert "and 2 more" in message


def test_an_image_in_which_rounding_decides_is_counted() -> None:
    otherwise = by_number(image3=found(scores=(0.9, 0.8, 0.4)))
    for rounded_otherwise in ([otherwise, by_number()], [by_number(), otherwise]):
        result = run(by_number(image3=NONE), *rounded_otherwise)
        assert result.undecided == 1
    assert "in 1 more images rounding decides" in result.summary()


def test_too_many_undecided_images_prove_little() -> None:
    special = {f"image{number}": NONE for number in (3, 4)}
    with pytest.raises(UserError, match=r"in 2 of 12 images .* rounding decides"):
        run(by_number(**special), by_number(**special))


def test_images_without_detections_prove_nothing() -> None:
    nothing = by_number(**{f"image{number}": NONE for number in range(12)})
    with pytest.raises(UserError, match="the detector finds nothing"):
        verify(nothing, nothing, [nothing], images(12), 12, of="some images")
    with pytest.raises(UserError, match="in 0 images"):
        verify(nothing, nothing, [nothing], [], 0, of="some images")
