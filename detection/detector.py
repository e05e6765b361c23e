"""A trained detector as one object: images in, detections out.

    from detection import Detector

    detector = Detector.load("runs/demo/detector.pt")
    found = detector("street.jpg")
    for box, score, name in zip(found.boxes, found.scores, found.names):
        print(name, score, box)

Shapes: D detections, H × W image.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image

from backbones.common.errors import UserError
from detection.config_file import change_config
from detection.data.augmentation import Augmentation
from detection.data.batches import Sample, collate, padded_size
from detection.data.images import read_image, rgb_over_white
from detection.experiment.builders import pair
from detection.experiment.datasets import test_augmentation
from detection.experiment.model_files import Categories, load_trained
from detection.experiment.placement import for_inference
from detection.networks.faster_rcnn import FasterRCNN
from detection.training.distributed import named_device
from detection.training.memory import memory_explained

ImageLike: TypeAlias = "str | os.PathLike[str] | np.ndarray | torch.Tensor | Image.Image"

_ACCEPTED = (
    "a path, an array uint8 (H, W, 3) in RGB order with values 0–255, a tensor uint8 (3, H, W) of the like, or a "
    "Pillow image with 8 bits a channel"
)

_LESS_MEMORY = (
    "Lower batch_size; or the size that images are brought to (Detector.load with changes=["
    '"data.test_shorter_side=…", "data.test_longer_side=…"]); or load the detector on another device.'
)


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image, in descending order of score.

    Attributes:
        boxes: float32 (D, 4), `(x0, y0, x1, y1)` in pixels of the image, half-open.
        scores: float32 (D,) in 0–1.
        labels: int64 (D,) in 1..K.
        names: D class names.
        category_ids: int64 (D,), the ids by which the training's annotation file knows the classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    category_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> ImageDetections:
        """Those that score at least `score`."""
        count = int((self.scores >= score).sum())
        return ImageDetections(
            self.boxes[:count], self.scores[:count], self.labels[:count], self.names[:count], self.category_ids[:count]
        )


class Detector:
    """Both networks, ready to look at images. It keeps nothing between calls and may be called from several threads.

    Args:
        network: the pair, on its device.
        categories: the classes.
        resize: how an image is brought to the size that the networks were trained at.
        size_divisor: padded sides are multiples of this.
    """

    def __init__(
        self, network: FasterRCNN, categories: Categories, resize: Augmentation, *, size_divisor: int = 32
    ) -> None:
        self.network = network.eval()
        self.categories = categories
        self._resize = resize
        self._size_divisor = size_divisor

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | torch.device = "auto", *, changes: Sequence[str] = ()
    ) -> Detector:
        """The detector of a `detector.pt`.

        Args:
            device: "cpu", "cuda", "cuda:1", or "auto", which takes a GPU where there is one.
            changes: values of its configuration to be changed, such as "fast_rcnn.min_score=0.3".

        Raises:
            UserError: no such file, damaged, or not a detector; a change that cannot be made; no such device.
        """
        chosen = _choose_device(str(device))
        trained = load_trained(path, "detector")
        assert trained.rpn is not None
        assert trained.fast_rcnn is not None
        config = change_config(trained.config, changes)
        network = for_inference(pair(config, trained.rpn, trained.fast_rcnn), config.runtime, chosen)
        return cls(network, trained.categories, test_augmentation(config.data), size_divisor=config.data.size_divisor)

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return next(self.network.parameters()).device

    def __call__(self, images: Any, *, batch_size: int = 1) -> Any:
        """Detections in one image, or in each of several.

        Args:
            images: a path; an array uint8 (H, W, 3) in RGB order (OpenCV reads BGR: reverse the last dimension); a
                tensor uint8 (3, H, W); a Pillow image, as it stands (whoever opened a photograph applies its EXIF
                orientation by `ImageOps.exif_transpose`). Or several of them: a sequence, an array (N, H, W, 3), or a
                tensor (N, 3, H, W).
            batch_size: how many of several images the networks look at at once, if they come to one padded size;
                others would pad each other, and change what is found near their edges.

        Returns:
            An `ImageDetections` for one image, a list of them for several.

        Raises:
            UserError: an image cannot be read, or is none of these; the memory does not suffice.
        """
        arrays = isinstance(images, (np.ndarray, torch.Tensor))
        if isinstance(images, (str, os.PathLike, Image.Image)) or (arrays and images.ndim not in (1, 4)):
            return self._detect([self._sample(images, 0)])[0]
        if not isinstance(images, Iterable):
            raise _not_accepted(images)
        found: list[ImageDetections] = []
        waiting: list[Sample] = []
        for sample in map(self._sample, images, itertools.count()):
            if waiting and (len(waiting) >= batch_size or self._padded(sample) != self._padded(waiting[0])):
                found += self._detect(waiting)
                waiting = []
            waiting.append(sample)
        return found + (self._detect(waiting) if waiting else [])

    @torch.inference_mode()
    def _detect(self, samples: Sequence[Sample]) -> list[ImageDetections]:
        batch = collate(samples, self._size_divisor)
        with memory_explained(batch, _LESS_MEMORY, "numbers in the call, from 0:"):
            batch = batch.to(self.device)
            found = self.network(batch.images, batch.sizes, batch.original_sizes)
        return [
            self._named(one.boxes.float().cpu().numpy(), one.scores.float().cpu().numpy(), one.labels.cpu().numpy())
            for one in found
        ]

    def _padded(self, sample: Sample) -> tuple[int, int]:
        height, width = sample.image.shape[1:]
        return padded_size((height, width), self._size_divisor)

    def _sample(self, image: ImageLike, number: int) -> Sample:
        array = _as_array(image)
        nothing = np.zeros((0, 4), dtype=np.float32)
        resized = self._resize(array, nothing, None, seed=0).image
        return Sample(
            image=torch.from_numpy(resized).permute(2, 0, 1),
            image_id=number,
            index=number,
            original_size=array.shape[:2],
            boxes=torch.from_numpy(nothing),
            labels=torch.zeros(0, dtype=torch.int64),
            crowds=torch.zeros(0, dtype=torch.bool),
            proposals=None,
            seed=0,
        )

    def _named(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> ImageDetections:
        names = [self.categories.name(label) for label in labels.tolist()]
        return ImageDetections(boxes, scores, labels, names, np.array(self.categories.ids, dtype=np.int64)[labels - 1])


def _choose_device(name: str) -> torch.device:
    """As `process_group` chooses, but for the current GPU, which stays as it is."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise UserError(f'device "{name}" is none of auto, cpu, cuda, and cuda:1 (the second GPU)')
    device = named_device(name)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f'device "{name}" was asked for, but PyTorch sees {torch.cuda.device_count()} GPU(s)')
    return device


def _as_array(image: ImageLike) -> np.ndarray:
    """One image, whatever holds it, as uint8 (H, W, 3) RGB."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF" or 0 in image.size:
            raise _not_accepted(image)
        return rgb_over_white(image)
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8 and image.shape[:-2] == (3,):
        image = image.cpu().permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise _not_accepted(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise _not_accepted(image)
    return np.require(image, requirements=["C", "W"])  # torch warns of arrays that are read-only


def _not_accepted(image: Any) -> UserError:
    if isinstance(image, (np.ndarray, torch.Tensor)):
        found = f"{image.dtype} {tuple(image.shape)}"
    elif isinstance(image, Image.Image):
        found = f"a Pillow image of mode {image.mode} and size {image.size}"
    else:
        found = f"{type(image).__name__}"
    return UserError(f"an image is {_ACCEPTED}; not {found}")
