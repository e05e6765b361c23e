"""Images of a data set → the same with their objects drawn, for the page of the checker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.augmentation import scale_boxes
from detection.data.dataset import DetectionDataset
from detection.data.findings import Example
from detection.data.images import ImageError, read_image
from detection.data.index import DatasetIndex
from detection.experiment.resizes import training_augmentation
from detection.report.captions import Color
from detection.report.drawing import class_color, draw_found, draw_ground_truth, draw_objects
from detection.report.page import ShownImage, embed_image

_SHOWN = 480  # pixels along the longer side of an image on the page
_CAPTIONS = 30  # of an image, at most
_ROOM = 3.0  # times a box's longer side that is shown of the image around a small box
_LEAST_WINDOW = 100  # pixels
_LEAST_MARK = 28  # pixels of the page along a marked box
_MARKED: Color = (222, 40, 40)


def annotated(index: DatasetIndex, images: Sequence[int]) -> Iterator[ShownImage]:
    """Images with all their objects."""
    for i in images:
        image = image_of(index, i)
        if image is not None:
            boxes, labels, crowds = index.objects(i)
            drawn = _drawn(image, boxes, labels, index.category_names, crowds)
            count = "no objects" if not len(boxes) else f"{len(boxes)} object{'s' * (len(boxes) > 1)}"
            yield ShownImage(embed_image(drawn, longest=_SHOWN), f"{index.file_name(i)}: {count}")


def augmented(data: settings.Data, index: DatasetIndex, images: Sequence[int], seed: int) -> Iterator[ShownImage]:
    """Images as the training sees them in its first epoch.

    Raises:
        UserError: the pipeline of albumentations cannot be built.
    """
    dataset = DetectionDataset(index, training_augmentation(data), seed=seed)
    for i in images:
        try:
            sample = dataset[0, i]
        except ImageError:
            continue
        pixels = sample.image.permute(1, 2, 0).contiguous().numpy()
        drawn = _drawn(pixels, sample.boxes.numpy(), sample.labels.numpy(), index.category_names, sample.crowds.numpy())
        caption = f"{index.file_name(i)}: {pixels.shape[1]} × {pixels.shape[0]} pixels"
        yield ShownImage(embed_image(drawn, longest=_SHOWN), caption)


def of_example(path_of: Callable[[str], Path], example: Example) -> ShownImage | None:
    """A finding's image, and if it names an object the box and what is around it; None if it names no image that can be
    read. path_of: see `image_paths`."""
    if example.image is None:
        return None
    image = _read(path_of(example.image))
    if image is None:
        return None
    if example.box is not None and np.isfinite(example.box).all():
        x, y, width, height = example.box
        image = _marked(image, np.array([x, y, x + width, y + height]))
    return ShownImage(embed_image(image, longest=_SHOWN), str(example))


def of_object(index: DatasetIndex, i: int, row: int, text: str) -> ShownImage | None:
    """An object of image i, its row in the index, and what is around it."""
    image = image_of(index, i)
    if image is None:
        return None
    return ShownImage(embed_image(_marked(image, index.boxes[row].astype(np.float64)), longest=_SHOWN), text)


def image_of(index: DatasetIndex, i: int) -> np.ndarray | None:
    """Image i, or None if it cannot be read."""
    return _read(index.path(i), index.size(i))


def _read(path: Path, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The image, or None if it cannot be read."""
    try:
        return read_image(path, size)
    except UserError:
        return None


def _drawn(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: Sequence[str], crowds: np.ndarray
) -> np.ndarray:
    """The image with its objects, at the size of the page, so that lines and captions are legible there. Many captions
    would hide the objects: then there are none."""
    image, boxes = _at_size_of_page(image, boxes)
    if len(boxes) <= _CAPTIONS:
        return draw_ground_truth(image, boxes, labels, names, crowds)
    colors = [class_color(int(label)) for label in labels]
    return draw_objects(image, boxes, [""] * len(boxes), colors)


def _at_size_of_page(image: np.ndarray, boxes: np.ndarray, *, enlarge: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An image and its boxes scaled down, or with `enlarge` also up, to the size of the page."""
    height, width = image.shape[:2]
    factor = _SHOWN / max(height, width)
    factor = factor if enlarge else min(1.0, factor)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    if size == (height, width):
        return image, boxes
    scaled = scale_boxes(boxes.astype(np.float32), (size[0] / height, size[1] / width), size)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), scaled


def _marked(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The image with a box (x0, y0, x1, y1), or the part of it around a small box. A box outside is moved to the
    edge."""
    height, width = image.shape[:2]
    box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
    box = np.clip(box, 0, [width, height, width, height])
    side = max(_LEAST_WINDOW, _ROOM * float((box[2:] - box[:2]).max()))
    middle = (box[:2] + box[2:]) / 2
    x0, y0 = (max(0, int(one - side / 2)) for one in middle)
    x1, y1 = (min(edge, int(one + side / 2) + 1) for one, edge in zip(middle, (width, height), strict=True))
    box = box - [x0, y0, x0, y0]
    part, boxes = _at_size_of_page(image[y0:y1, x0:x1], box[None], enlarge=True)
    short = np.maximum(0, _LEAST_MARK - (boxes[:, 2:] - boxes[:, :2])) / 2  # a box without an area is seen, too
    return draw_found(part, boxes + np.concatenate([-short, short], axis=1), [""], [_MARKED])
