"""How a file in reduced precision is compared with the detector, and what AP it may lose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.detector_interface import ImageDetections
from detection.export.reduced import Reference, loss_of, matches, require_small_loss
from detection.export.verification import Image
from tests.detection.export.test_verification import NONE, by_number, found, images


def test_equal_detections_all_match() -> None:
    assert matches(found(), found()).count == 3
    assert matches(NONE, found()).count == matches(found(), NONE).count == matches(NONE, NONE).count == 0


def test_the_largest_differences_among_pairs_are_told() -> None:
    got = found(boxes=((0, 0, 10, 10), (20, 20, 30, 30.5), (0, 0.25, 10, 10)), scores=(0.9, 0.75, 0.5))
    same = matches(got, found())
    assert (same.count, same.box) == (3, 0.5)
    assert same.score == pytest.approx(0.05)


@pytest.mark.parametrize(
    "changed",
    [
        found(labels=(1, 2, 2)),
        found(scores=(0.9, 0.65, 0.5)),
        found(boxes=((0, 0, 10, 10), (20, 20, 30, 31.5), (0, 0, 10, 10))),  # an IoU of 0.87
        found(boxes=((0, 0, 10, 10), (20, 20, 30, np.nan), (0, 0, 10, 10))),
    ],
)
def test_another_class_score_or_box_is_no_match(changed: ImageDetections) -> None:
    assert matches(changed, found()).count == 2


def test_each_detection_is_in_one_pair() -> None:
    twice = found(boxes=((0, 0, 10, 10), (0, 0, 10, 10)), scores=(0.9, 0.88), labels=(1, 1))
    once = found(boxes=((0, 0, 10, 10),), scores=(0.9,), labels=(1,))
    assert matches(once, twice).count == matches(twice, once).count == 1


def reference(detector: Callable[[list[np.ndarray]], list[ImageDetections]], count: int = 6) -> Reference:
    return Reference(detector, lambda: images(count), count, of="some images")


def test_without_annotations_the_detector_s_own_sure_detections_take_their_place() -> None:
    """The detection of score 0.5 counts as one, those below do not."""
    some = found(scores=(0.9, 0.5, 0.4))
    one = reference(by_number(**{f"image{number}": some for number in range(6)}))
    assert one.average_precision == 1
    result = one.compare(by_number(**{f"image{number}": some.above(0.45) for number in range(6)}))
    assert result.average_precision == {"detector": 1, "file": 1}
    assert result.truth == "detections"
    assert result.matched == pytest.approx(2 * 12 / (18 + 12))
    assert loss_of(result) == 0
    assert "AP on the detector's own surest detections: detector 1.0000, file 1.0000" in result.summary()
    assert "80.0% have their like in the file's (the same class, IoU 0.9, scores to 0.1)" in result.summary()


def test_too_much_loss_is_refused_and_the_limit_is_noted() -> None:
    one = reference(by_number())
    result = one.compare(by_number(image0=NONE, image1=NONE))
    assert loss_of(result) > 0.2
    with pytest.raises(UserError, match=r"in int8 the AP on 6 images \(some images\) falls by 0\.\d+, more than 0\.01"):
        require_small_loss(result, 0.01, "int8")
    require_small_loss(result, 0.9, "int8")
    assert result.tolerance == {"iou": 0.9, "score": 0.1, "average_precision": 0.9}


def test_a_broken_file_is_refused() -> None:
    """Whatever it gives."""
    result = reference(by_number()).compare(by_number(**{f"image{number}": NONE for number in range(6)}))
    assert result.average_precision == {"detector": 1, "file": 0}
    with pytest.raises(UserError, match="falls by 1"):
        require_small_loss(result, 0.5, "fp16")


def test_a_detector_that_finds_nothing_proves_nothing() -> None:
    one = reference(by_number(**{f"image{number}": NONE for number in range(6)}))
    with pytest.raises(UserError, match="the detector finds too little"):
        require_small_loss(one.compare(by_number()), 0.01, "fp16")


def test_images_are_read_anew_for_each_file() -> None:
    reads: list[int] = []

    def read() -> list[Image]:
        reads.append(1)
        return images(2)

    one = Reference(by_number(), read, 2, of="some images")
    losses: list[Any] = [one.loss(by_number(), "a file") for _ in range(2)]
    assert losses == [0, 0]
    assert len(reads) == 3
