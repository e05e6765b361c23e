"""Images of an index → a batch for a detector, in three ways: ours, torchvision's reference, detectron2's manner.

Each does the same work step by step: decode, resize, flip with probability `flip`, batch (padded at the right and the
bottom), normalise. Steps are methods, so that they can be timed alone; a call does all of them, each in its pipeline's
own order. Boxes travel along.

- `Ours`: `DetectionDataset` and `collate`, bytes all the way; `prepare` normalises the batch, on the device that
  trains.
- `Torchvision`: the pipeline of torchvision's detection reference in torchvision's own modules: PIL, `PILToTensor`,
  `RandomHorizontalFlip`, floating point; then `GeneralizedRCNNTransform`, which normalises, resizes and batches.
- `Detectron`: a mapper as detectron2 has it: PIL turned by EXIF, PIL's bilinear resize, a NumPy flip, the image as
  bytes (3, H, W); then what its detectors do first: each image is normalised in floating point, and padded into a
  batch.

Shapes: N images, H × W padded size, h × w one image's, G boxes of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from backbones import InputFormat
from detection.data.augmentation import Augmentation
from detection.data.batches import Batch, Sample, collate, padded_size
from detection.data.dataset import DetectionDataset
from detection.data.images import read_image
from detection.data.index import DatasetIndex
from detection.networks.network_input import prepare

IMAGENET = InputFormat("rgb", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Work:
    """What all pipelines are to do: which images, the sides they are scaled to, the probability of a flip, and what
    padded sides are multiples of."""

    index: DatasetIndex
    shorter: int = 600
    longer: int = 1000
    flip: float = 0.5
    divisor: int = 32


class Ready(NamedTuple):
    """images float32 (N, 3, H, W), normalised, zero in the padding; boxes: N times (G, 4) on the images."""

    images: Tensor
    boxes: list[Tensor]


class Ours:
    """This project's pipeline."""

    def __init__(self, work: Work) -> None:
        self.work = work
        augmentation = Augmentation((work.shorter,), work.longer, horizontal_flip=work.flip)
        self.dataset = DetectionDataset(work.index, augmentation)

    def to_bytes(self, images: Sequence[int]) -> Batch:
        return collate([self.dataset[0, i] for i in images], self.work.divisor)

    def __call__(self, images: Sequence[int]) -> Ready:
        batch = self.to_bytes(images)
        boxes = [own[labels > 0] for own, labels in zip(batch.boxes, batch.labels, strict=True)]
        return Ready(self.normalize(batch), boxes)

    def decode(self, i: int) -> np.ndarray:
        index = self.work.index
        return read_image(index.path(i), index.size(i))

    def resize(self, image: np.ndarray) -> np.ndarray:
        height, width = self.dataset.augmentation.target_size(image.shape[0], image.shape[1], seed=0)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def flip(self, image: np.ndarray) -> np.ndarray:
        return cv2.flip(image, 1)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        return collate(samples, self.work.divisor)

    def normalize(self, batch: Batch) -> Tensor:
        return prepare(batch.images, batch.sizes, IMAGENET)


class Torchvision:
    """torchvision's reference pipeline."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.flip_at_random = v2.RandomHorizontalFlip(work.flip)
        self.to_tensor, self.to_float = v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)
        self.transform = GeneralizedRCNNTransform(
            work.shorter, work.longer, list(IMAGENET.mean), list(IMAGENET.std), size_divisible=work.divisor
        )

    def __call__(self, chosen: Sequence[int]) -> Ready:
        images, targets = [], []
        for i in chosen:
            image = self.decode(i)
            boxes, labels, _ = self.work.index.objects(i)
            around = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=image.shape[-2:])
            image, target = self.flip_at_random(image, {"boxes": around, "labels": torch.from_numpy(labels)})
            images.append(self.to_float(image))
            targets.append({**target, "boxes": target["boxes"].as_subclass(Tensor)})
        batch, resized = self.transform(images, targets)
        return Ready(batch.tensors, [own["boxes"] for own in resized])

    def decode(self, i: int) -> Tensor:
        tensor: Tensor = self.to_tensor(Image.open(self.work.index.path(i)).convert("RGB"))
        return tensor

    def resize(self, image: Tensor) -> Tensor:
        resized: Tensor = self.transform.resize(image)[0]
        return resized

    def flip(self, image: Tensor) -> Tensor:
        return v2.functional.horizontal_flip(image)

    def batch(self, images: list[Tensor]) -> Tensor:
        return self.transform.batch_images(images, self.work.divisor)

    def normalize(self, image: Tensor) -> Tensor:
        return self.transform.normalize(self.to_float(image))


class Detectron:
    """A mapper in detectron2's manner."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.random = np.random.default_rng(0)
        self.mean = 255 * torch.tensor(IMAGENET.mean)[:, None, None]
        self.std = 255 * torch.tensor(IMAGENET.std)[:, None, None]

    def map(self, i: int) -> tuple[Tensor, Tensor]:
        """An image as bytes (3, h, w) and its boxes (G, 4)."""
        image = self.decode(i)
        height, width = image.shape[:2]
        image = self.resize(image)
        new_height, new_width = image.shape[:2]
        boxes = self.work.index.objects(i)[0] * (np.array([new_width, new_height] * 2) / ([width, height] * 2))
        if self.random.random() < self.work.flip:
            image = self.flip(image)
            boxes[:, [0, 2]] = new_width - boxes[:, [2, 0]]
        return self.as_tensor(image), torch.as_tensor(boxes, dtype=torch.float32)

    def to_bytes(self, images: Sequence[int]) -> Tensor:
        return self.batch([self.map(i)[0] for i in images])

    def __call__(self, images: Sequence[int]) -> Ready:
        mapped = [self.map(i) for i in images]
        return Ready(self.batch([self.normalize(image) for image, _ in mapped]), [boxes for _, boxes in mapped])

    def decode(self, i: int) -> np.ndarray:
        with self.work.index.path(i).open("rb") as file:
            return np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))

    def resize(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        factor = min(self.work.shorter / min(height, width), self.work.longer / max(height, width))
        size = (int(width * factor + 0.5), int(height * factor + 0.5))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

    def flip(self, image: np.ndarray) -> np.ndarray:
        return np.flip(image, axis=1)

    def as_tensor(self, image: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        padded = images[0].new_zeros((len(images), 3, *padded_size((height, width), self.work.divisor)))
        for target, image in zip(padded, images, strict=True):
            target[:, : image.shape[1], : image.shape[2]].copy_(image)
        return padded

    def normalize(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std
