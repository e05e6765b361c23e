"""A detector among a server's other code: it changes nothing around it, and nothing around it changes its answers."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from detection.data.augmentation import Augmentation
from detection.detector import Detector, PictureDetections
from detection.faster_rcnn import FasterRCNN
from detection.model_files import Categories
from tests.detection.networks import tiny_fast_rcnn, tiny_rpn

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def detector() -> Detector:
    network = FasterRCNN(tiny_rpn(), tiny_fast_rcnn(), before_nms=200, proposals=30, min_side=8.0, min_score=0.1)
    return Detector(network, Categories((3, 7, 9), NAMES), Augmentation((96,), 128))


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((96, 128), (50, 40), (97, 61))]


def same(one: PictureDetections, other: PictureDetections) -> bool:
    equal = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))
    return equal and one.names == other.names and np.array_equal(one.category_ids, other.category_ids)


def surroundings() -> dict[str, Any]:
    """The global settings and states that a library might be tempted to change."""
    return {
        "threads": torch.get_num_threads(),
        "threads between operators": torch.get_num_interop_threads(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default type": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32),
        "float32 products": torch.get_float32_matmul_precision(),
        "torch's numbers": torch.get_rng_state().tolist(),
        "numpy's numbers": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "numpy's errors": np.geterr(),
        "Python's numbers": random.getstate(),
        "OpenCV's threads": cv2.getNumThreads(),
        "warnings": list(warnings.filters),
    }


def test_it_leaves_global_settings_alone(detector: Detector, pictures: list[np.ndarray]) -> None:
    before = surroundings()
    detector(pictures[0])
    detector(pictures, batch_size=2)
    assert surroundings() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_answers_do_not_depend_on_the_gradient_mode(
    detector: Detector, pictures: list[np.ndarray], enabled: bool
) -> None:
    expected = detector(pictures[0])
    with torch.set_grad_enabled(enabled):
        assert same(detector(pictures[0]), expected)
        assert torch.is_grad_enabled() == enabled
    assert len(expected) > 0


def test_answers_do_not_depend_on_the_default_type(detector: Detector, pictures: list[np.ndarray]) -> None:
    expected = detector(pictures[0])
    torch.set_default_dtype(torch.float64)
    try:
        assert same(detector(pictures[0]), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_keeps_no_state_between_calls(detector: Detector, pictures: list[np.ndarray]) -> None:
    weights = {name: value.clone() for name, value in detector.network.state_dict().items()}
    first = detector(pictures[1])
    copies = [picture.copy() for picture in pictures]
    for picture in pictures:
        detector(picture)
    assert same(detector(pictures[1]), first)
    assert all(np.array_equal(picture, copy) for picture, copy in zip(pictures, copies, strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in detector.network.state_dict().items())


def test_alone_and_in_a_batch_the_answer_is_the_same(detector: Detector, pictures: list[np.ndarray]) -> None:
    several = [*pictures, pictures[2], pictures[2][:, ::-1], pictures[0]]
    for batch_size in (1, 2, 3):
        for together, picture in zip(detector(several, batch_size=batch_size), several, strict=True):
            alone = detector(picture)
            assert together.names == alone.names
            np.testing.assert_allclose(together.boxes, alone.boxes, atol=1e-2)
            np.testing.assert_allclose(together.scores, alone.scores, atol=1e-5)


def test_several_threads_get_the_answers_that_one_gets(detector: Detector, pictures: list[np.ndarray]) -> None:
    expected = [detector(picture) for picture in pictures]
    wrong: list[object] = []

    def ask(offset: int) -> None:
        try:
            for step in range(6):
                number = (offset + step) % len(pictures)
                if not same(detector(pictures[number]), expected[number]):
                    wrong.append(number)
                if not torch.is_grad_enabled():
                    wrong.append("gradients are off in the caller's thread")
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "view",
    [
        lambda picture: picture[::-1, ::-1],
        lambda picture: np.asfortranarray(picture),
        lambda picture: np.lib.stride_tricks.as_strided(picture, writeable=False)[:, :],
    ],
    ids=["reversed", "Fortran order", "read-only"],
)
def test_any_layout_of_the_array_will_do(
    detector: Detector, pictures: list[np.ndarray], view: Callable[[np.ndarray], np.ndarray]
) -> None:
    seen = view(pictures[0])
    assert same(detector(seen), detector(np.array(seen, order="C")))
