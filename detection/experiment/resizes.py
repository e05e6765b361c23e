"""Configuration → how images are resized and augmented, for training and for inference."""

from __future__ import annotations

from detection import config as settings
from detection.data.augmentation import Augmentation


def training_augmentation(data: settings.Data) -> Augmentation:
    """The augmentation and resize of training images."""
    return Augmentation(
        shorter_sides=data.shorter_sides,
        longer_side_max=data.longer_side,
        horizontal_flip=data.horizontal_flip,
        vertical_flip=data.vertical_flip,
        albumentations=data.albumentations or None,
        scale_jitter=data.scale_jitter,
        scale_jitter_side=data.scale_jitter_side,
    )


def test_augmentation(data: settings.Data) -> Augmentation:
    """The resize of images for inference."""
    return Augmentation(shorter_sides=(data.test_shorter_side,), longer_side_max=data.test_longer_side)


def test_views(data: settings.Data) -> tuple[Augmentation, ...]:
    """The resizes of the further scales of test-time augmentation. The longer side is limited in proportion to the
    shorter one."""
    factor = data.test_longer_side / data.test_shorter_side
    return tuple(
        Augmentation(shorter_sides=(side,), longer_side_max=max(1, round(side * factor))) for side in data.test_scales
    )
