"""An image → an augmented crop for training: a random crop, flip and change of colours.

Images are uint8 RGB (H, W, 3). All randomness comes from one seed, through Python's own generator, whose sequence is
the same in every release. Sources: the paper's reference code for ImageNet (random-sized crop, colour jitter, PCA
lighting); appendix A for CIFAR (pad and crop). Both flip half of the images.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ..common.errors import UserError
from .views import INTERPOLATIONS

# ImageNet's colour variation: eigenvalues and eigenvectors (one per column, in the order R, G, B) of the pixels'
# covariance, for values of 0-1 (Krizhevsky et al., "ImageNet classification with deep convolutional networks", 2012,
# section 4.1; the numbers are the reference code's).
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_GREY = np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomView:
    """The augmentation of training images.

    Attributes:
        size: side of the square crop.
        crop: "random_sized": a random part of the image, resized. "padded": a random square of the padded image.
        min_area: of "random_sized": the smallest share of the image's area; the largest is 1.
        padding: of "padded": pixels on each side.
        fill: the colour of the padding. The reference code pads with zeros after subtracting the mean; so this is the
            mean's colour.
        colour_jitter: brightness, contrast and saturation change by a factor of up to 1 ± this, in random order.
        lighting: standard deviation, in units of ImageNet's own, of a shift along its colours' principal components.
        horizontal_flip: probability.
        interpolation: of the resize: "bilinear" or "bicubic".
    """

    size: int
    crop: str = "random_sized"
    min_area: float = 0.08
    padding: int = 4
    fill: tuple[int, int, int] = (0, 0, 0)
    colour_jitter: float = 0.0
    lighting: float = 0.0
    horizontal_flip: float = 0.5
    interpolation: str = "bilinear"

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """The augmented crop (size, size, 3), determined by `seed`.

        Raises:
            UserError: for padded crops, the padded image is smaller than the crop, or the image's longer side is more
                than twice the crop's.
        """
        draws = random.Random(seed)
        # All numbers are always drawn, so that switching one augmentation off does not change the others.
        is_mirrored = draws.random() < self.horizontal_flip
        factors = [draws.uniform(-1, 1) for _ in range(3)]
        order = draws.sample(range(3), 3)
        shifts = [draws.gauss(0, 1) for _ in range(3)]
        view = self._random_sized(image, draws) if self.crop == "random_sized" else self._padded(image, draws)
        if is_mirrored:
            view = view[:, ::-1]
        view = np.ascontiguousarray(view)
        if self.colour_jitter or self.lighting:
            jitter = [1 + self.colour_jitter * factor for factor in factors]
            light = 255 * _EIGENVECTORS @ (self.lighting * np.array(shifts) * _EIGENVALUES)
            matrix, offset = colour_change(np.array(cv2.mean(view)[:3]), jitter, order, light)
            view = cv2.transform(view, np.column_stack([matrix, offset]))  # rounded and clipped to 0-255
        return view

    def _random_sized(self, image: np.ndarray, draws: random.Random) -> np.ndarray:
        """A part of random area and aspect ratio (Szegedy et al., "Going deeper with convolutions", section 6), or the
        centre of the image if none of ten attempts fits."""
        height, width = image.shape[:2]
        for _ in range(_ATTEMPTS):
            area = height * width * draws.uniform(self.min_area, 1)
            ratio = draws.uniform(3 / 4, 4 / 3)
            part_width, part_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if draws.random() < 0.5:
                part_width, part_height = part_height, part_width
            if 0 < part_width <= width and 0 < part_height <= height:
                x, y = draws.randint(0, width - part_width), draws.randint(0, height - part_height)
                break
        else:
            part_width = part_height = min(height, width)
            x, y = (width - part_width) // 2, (height - part_height) // 2
        part = image[y : y + part_height, x : x + part_width]
        if part.shape[:2] == (self.size, self.size):
            return part
        # Pillow's resize averages over all pixels that an output pixel covers; OpenCV's would skip some.
        return np.asarray(Image.fromarray(part).resize((self.size, self.size), INTERPOLATIONS[self.interpolation]))

    def _padded(self, image: np.ndarray, draws: random.Random) -> np.ndarray:
        spare_height, spare_width = (side + 2 * self.padding - self.size for side in image.shape[:2])
        if min(spare_height, spare_width) < 0:
            raise UserError(
                f"an image of {image.shape[1]}×{image.shape[0]} pixels padded by {self.padding} is smaller than "
                f"the crop of {self.size}: use random_sized crops, or a smaller size"
            )
        if max(image.shape[:2]) > 2 * self.size:
            raise UserError(
                f"an image of {image.shape[1]}×{image.shape[0]} pixels is more than twice a padded crop of "
                f"{self.size}, which would show a corner of it: use random_sized crops, and resize for the test; "
                "or, if it is a sheet of many images, cut it up first"
            )
        y, x = draws.randint(0, spare_height), draws.randint(0, spare_width)
        pad = self.padding
        padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=self.fill)
        return padded[y : y + self.size, x : x + self.size]


def colour_change(
    mean: np.ndarray, jitter: list[float], order: list[int], light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of colours, matrix (3, 3) and offset (3,), that changes brightness, contrast and saturation by the
    factors `jitter`, in `order`, and then adds `light`; for an image whose mean colour is `mean` (3,).

    Brightness blends the image with black, contrast with its mean grey, saturation with its grey version.

    >>> matrix, offset = colour_change(np.zeros(3), [1.5, 1.0, 1.0], [0, 1, 2], np.array([1.0, 2.0, 3.0]))
    >>> (matrix @ [10, 20, 30] + offset).tolist()
    [16.0, 32.0, 48.0]
    """
    matrix, offset = np.eye(3), np.zeros(3)
    for change in order:
        factor = jitter[change]
        if change == 2:
            blend = factor * np.eye(3) + (1 - factor) * np.tile(_GREY, (3, 1))
            matrix, offset = blend @ matrix, blend @ offset
        else:
            grey = _GREY @ (matrix @ mean + offset) if change == 1 else 0.0
            matrix, offset = factor * matrix, factor * offset + (1 - factor) * grey
    return matrix, offset + light
