"""Configuration → the images of a split, and their augmentation or test views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from backbones import InputFormat
from backbones.classification.labelled_images import LabelledImages, open_images
from backbones.classification.random_view import RandomView
from backbones.classification.views import Views
from detection.classifier.config import Data
from detection.data.image_kinds import readable_endings
from detection.data.images import read_image
from detection.training.consensus import require_same, together


def open_split(data: Data, which: Literal["train", "test"], classes: tuple[str, ...] | None = None) -> LabelledImages:
    """The images of the configured split, the same on every rank; see `open_images` for `classes` and errors."""
    split = data.train if which == "train" else data.test
    images = together(
        f"looking for the images of {split}",
        lambda: open_images(data.root, split, read_image, classes, readable_endings()),
    )
    require_same(f"data.{which}", {"images": images.fingerprint})
    return images


def training_view(data: Data, expected: InputFormat) -> RandomView:
    """The augmentation of training images, for a network that expects this input."""
    mean = expected.mean if expected.channel_order == "rgb" else expected.mean[::-1]
    red, green, blue = (round(255 * value / expected.value_range) for value in mean)
    return RandomView(
        size=data.size,
        crop=data.crop,
        min_area=data.min_area,
        padding=data.padding,
        fill=(red, green, blue),
        colour_jitter=data.colour_jitter,
        lighting=data.lighting,
        horizontal_flip=data.horizontal_flip,
        interpolation=data.interpolation,
    )


def views_for_test(
    data: Data, *, size: int | None = None, crops: str = "centre", scales: Sequence[int] | None = None
) -> Views:
    """The views that a test averages over: by default the single crop of the configuration.

    Args:
        size: another side of the crops; the image is then resized in the same proportion as for the configured one.
        scales: shorter sides to resize to, in place of that.

    Raises:
        UserError: a size or scale below 1, or a scale that is smaller than the crop.
    """
    resize = data.test_resize
    if size is not None and resize is not None:
        resize = round(size * resize / data.test_size)
    side = data.test_size if size is None else size
    return Views(side, (resize,) if scales is None else tuple(scales), crops, data.interpolation)
