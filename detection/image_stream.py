"""A folder, a video or any iterable of images → the images as arrays, read and decoded ahead in a thread."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.data.image_search import find_images
from detection.detector_interface import as_array, is_one_image
from detection.video import Video, is_video

AHEAD = 4  # images


def images_ahead(images: Any, ahead: int = AHEAD) -> Iterator[np.ndarray]:
    """The images uint8 (H, W, 3) of a folder, in the order of `find_images`, of a video (see `is_video`), or of an
    iterable, in its order.

    A thread reads and decodes them, up to `ahead` before they are asked for; no others are in memory. The iterable is
    advanced in that thread. An error is raised at its image's place, and ends the iteration.

    Raises:
        UserError: it is one image rather than several; a folder has no image; an image cannot be read, or is no image.
    """
    if isinstance(images, (str, os.PathLike)) and Path(images).is_dir():
        source: Iterator[Any] = iter(find_images([Path(images)]))
    elif is_video(images):
        video = Video(images)
        return _decoded((frame.image for frame in video), max(1, ahead), video.close)
    elif is_one_image(images):
        raise UserError("this is one image; a stream is made of a folder of images, a video, or an iterable of images")
    else:
        source = iter(images)
    return _decoded(source, max(1, ahead))


def _decoded(source: Iterator[Any], ahead: int, close: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
    """close: ends the source, which may be waiting for a frame."""
    pool = ThreadPoolExecutor(1, "images ahead")
    try:
        waiting: deque[Future[np.ndarray | None]] = deque(pool.submit(_next, source) for _ in range(ahead))
        while (image := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(_next, source))
            yield image
    finally:
        close()
        pool.shutdown(cancel_futures=True)


def _next(source: Iterator[Any]) -> np.ndarray | None:
    for image in source:
        return as_array(image)
    return None
