"""What every detector does with the images that it is called with, whatever computes the detections.

This module does not import PyTorch, so that the runtime of exported files (`detection.export.runtime`) can share it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from detection.common.categories import Categories
from detection.detector_interface import ImageDetections, as_array, class_thresholds, is_one_image
from detection.image_stream import AHEAD, images_ahead


class BaseDetector(ABC):
    """A detector whose `_detect` computes detections in arrays.

    Attributes:
        categories: the classes.
    """

    categories: Categories

    def __call__(self, images: Any, *, batch_size: int = 1) -> Any:
        """Detections in one image, or in each of several.

        Args:
            images: a path; an array uint8 (H, W, 3) in RGB order (OpenCV reads BGR: reverse the last dimension); a
                tensor uint8 (3, H, W); a Pillow image, used unchanged (apply the EXIF orientation of a photograph with
                `ImageOps.exif_transpose` before). Or several of them: a sequence, an array (N, H, W, 3), or a tensor
                (N, 3, H, W).
            batch_size: at most this many images are processed as one batch. A batch has only images of one padded size,
                because more padding would change the detections near the edges of an image. An exported file that is
                not for batches (`--batch`) processes them one by one.

        Returns:
            An `ImageDetections` for one image, a list of them for several.

        Raises:
            UserError: an image cannot be read, or is none of these; out of memory.
        """
        if is_one_image(images):
            return self([images])[0]
        return list(self._detect(map(as_array, images), batch_size))

    def stream(self, images: Any, *, batch_size: int = 1, ahead: int = AHEAD) -> Iterator[ImageDetections]:
        """Detections in each image of a folder, a video or an iterable, one after the other, in their order.

        A video is the path of a file, the URL of a stream or the number of a camera, see `detection.video`.

        Unlike a call with several images, it keeps neither images nor results: a thread decodes `ahead` images before
        they are needed, see `images_ahead`. The arguments are otherwise those of a call.
        """
        return self._detect(images_ahead(images, ahead), batch_size)

    def thresholds(self, scores: Mapping[str, float], other: float = 0.5) -> list[float]:
        """The least score of each class, for `ImageDetections.above`; see `class_thresholds`."""
        return class_thresholds(scores, self.categories, other)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size is resized to."""
        return height, width

    @abstractmethod
    def _detect(self, images: Iterable[np.ndarray], batch_size: int) -> Iterator[ImageDetections]:
        """Detections in each of the images uint8 (H, W, 3), in their order."""
