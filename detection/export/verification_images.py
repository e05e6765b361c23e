"""What an export reads: the images that a file is verified on, with their annotations if they have any, and those that
int8 is calibrated on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.common.errors import UserError
from backbones.common.progress import with_progress
from detection import config as settings
from detection.common.categories import Categories
from detection.common.evenly_spread import evenly_spread
from detection.data.image_search import find_images
from detection.data.images import ImageError, read_image
from detection.data.index import DatasetIndex
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import open_split
from detection.export.verification import Image

logger = logging.getLogger(__name__)

IMAGES = 100  # at most, to verify on and to calibrate on


@dataclass(frozen=True)
class Sources:
    """The images of a verification, and their annotations if they have any. of: what they are, in words."""

    paths: list[Path]
    index: DatasetIndex | None
    of: str

    def read(self) -> Iterator[Image]:
        """The images that can be read; the others are named in warnings."""
        for number, path in enumerate(self.paths):
            size, image_id = None, number
            if self.index is not None:
                size = self.index.size(number)
                image_id = int(self.index.image_ids[number])
            try:
                yield Image(str(path), image_id, read_image(path, size))
            except ImageError as error:
                logger.warning("%s", error)


def images_to_verify_on(
    config: settings.Config, categories: Categories, images: Sequence[Path], limit: int | None
) -> Sources:
    """Those named, or those of the test split; at most `limit` of them, spread evenly.

    Raises:
        UserError: there are none, or the test split cannot be used.
    """
    if images:
        paths = find_images(images)
        return Sources(
            [paths[i] for i in evenly_spread(len(paths), limit)], None, ", ".join(path.name for path in images)
        )
    try:
        index = open_split(config.data, "test")
    except UserError as error:
        raise UserError(
            f"the images to verify the file on cannot be used: {error}\nName others with --verify DIR, or the folder "
            "of the data set with --data DIR"
        ) from error
    index = match_classes(index, categories.ids, categories.names, "the detector")
    index = index.subset(evenly_spread(len(index), limit))
    return Sources([index.path(i) for i in range(len(index))], index, f"the test split, {index.annotation_file.name}")


def calibration_inputs(paths: Sequence[Path], batch: bool) -> Iterator[Mapping[str, np.ndarray]]:
    """The inputs of an exported model, for batches or not, for at most `IMAGES` of the images named, spread evenly.

    Raises:
        UserError: there is no such path, or no image.
    """
    found = find_images(paths)
    sources = Sources([found[i] for i in evenly_spread(len(found), IMAGES)], None, "")
    for image in with_progress(sources.read(), len(sources.paths), "calibrating"):
        if batch:
            yield {"images": image.pixels[None], "sizes": np.array([image.pixels.shape[:2]], dtype=np.int64)}
        else:
            yield {"image": image.pixels}
