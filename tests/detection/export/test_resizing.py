"""The resize in exportable operators against OpenCV's, which training and inference use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detection.data.augmentation import Augmentation
from detection.export.resizing import network_sizes, resize

NOTHING = np.zeros((0, 4), dtype=np.float32)
SHAPES = [(1, 1), (1, 50), (70, 1), (2, 3), (64, 48), (97, 61), (240, 320), (120, 640), (333, 500)]


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("sides", [(60, 100), (120, 160), (24, 1000), (640, 250)])
def test_the_bytes_are_opencvs(sides: tuple[int, int]) -> None:
    """Smaller and larger, halved exactly (which OpenCV computes in another way), and with padding beyond the image."""
    augmentation = Augmentation((sides[0],), sides[1])
    for height, width in SHAPES:
        image = pixels(height, width)
        expected = augmentation(image, NOTHING, None, 0).image
        sizes = torch.tensor([[height, width]])
        new = network_sizes(sizes, *sides)
        assert new.tolist() == [list(expected.shape[:2])]
        got = resize(torch.from_numpy(image)[None], sizes, new, expected.shape[0] + 3, expected.shape[1] + 5)
        np.testing.assert_array_equal(got[0, : expected.shape[0], : expected.shape[1]].numpy(), expected)


@pytest.mark.parametrize("sides", [(60, 100), (120, 160), (640, 250), (600, 1000)])
def test_without_float64_they_are_the_same(sides: tuple[int, int]) -> None:
    augmentation = Augmentation((sides[0],), sides[1])
    for height, width in SHAPES:
        image = pixels(height, width)
        expected = augmentation(image, NOTHING, None, 0).image
        sizes = torch.tensor([[height, width]])
        got = resize(
            torch.from_numpy(image)[None], sizes, network_sizes(sizes, *sides), *expected.shape[:2], float64=False
        )
        np.testing.assert_array_equal(got[0].numpy(), expected)


def test_images_of_a_batch_are_resized_as_alone() -> None:
    augmentation = Augmentation((40,), 60)
    images = [pixels(height, width, seed) for seed, (height, width) in enumerate([(30, 50), (50, 30), (45, 45)])]
    padded = np.full((3, 50, 50, 3), 255, dtype=np.uint8)
    for place, image in zip(padded, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    sizes = torch.tensor([image.shape[:2] for image in images])
    got = resize(torch.from_numpy(padded), sizes, network_sizes(sizes, 40, 60), 64, 64).numpy()
    for one, image in zip(got, images, strict=True):
        expected = augmentation(image, NOTHING, None, 0).image
        np.testing.assert_array_equal(one[: expected.shape[0], : expected.shape[1]], expected)


def test_sizes_are_those_of_the_augmentation() -> None:
    """Also where the exact side lies half-way between two whole numbers."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in np.exp(generator.uniform(0, np.log(5000), 2)) + 0.5)
        shorter, longer = (int(side) for side in generator.integers(1, 1400, 2))
        expected = Augmentation((shorter,), longer).target_size(height, width, 0)
        assert network_sizes(torch.tensor([[height, width]]), shorter, longer).tolist() == [list(expected)]
