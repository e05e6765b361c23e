"""A trained detector as one object: pictures in, detections out.

    from detection import Detector

    detector = Detector.load("runs/demo/detector.pt")
    found = detector("street.jpg")
    for box, score, name in zip(found.boxes, found.scores, found.names):
        print(name, score, box)

Shapes: D detections, H × W picture.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from detection.builders import pair
from detection.config import Config
from detection.data.augmentation import Augmentation
from detection.data.batches import Sample, collate, padded_size
from detection.data.pictures import read_picture
from detection.errors import UserError
from detection.faster_rcnn import FasterRCNN
from detection.model_files import Categories, load_trained
from detection.recipe import for_inference
from detection.splits import test_augmentation

Picture: TypeAlias = "str | os.PathLike[str] | np.ndarray"


@dataclass(frozen=True)
class PictureDetections:
    """What was found in one picture, in descending order of score.

    Attributes:
        boxes: float32 (D, 4), `(x0, y0, x1, y1)` in pixels of the picture, half-open.
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

    def above(self, score: float) -> PictureDetections:
        """Those that score at least `score`."""
        count = int((self.scores >= score).sum())
        return PictureDetections(
            self.boxes[:count], self.scores[:count], self.labels[:count], self.names[:count], self.category_ids[:count]
        )


class Detector:
    """Both networks, ready to look at pictures. It keeps nothing between calls and may be called from several threads.

    Args:
        network: the pair, on its device.
        categories: the classes.
        resize: how a picture is brought to the size that the networks were trained at.
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
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "auto") -> Detector:
        """The detector of a `detector.pt`; "auto" takes a GPU where there is one.

        Raises:
            UserError: no such file, damaged, or not a detector.
        """
        trained = load_trained(path, "detector")
        assert trained.rpn is not None
        assert trained.fast_rcnn is not None
        config: Config = trained.config
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        network = for_inference(pair(config, trained.rpn, trained.fast_rcnn), config.runtime, torch.device(device))
        return cls(network, trained.categories, test_augmentation(config.data), size_divisor=config.data.size_divisor)

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return next(self.network.parameters()).device

    def __call__(self, pictures: Any, *, batch_size: int = 1) -> Any:
        """Detections in one picture, or in each of several.

        Args:
            pictures: a path or an array uint8 (H, W, 3) in RGB order (OpenCV reads BGR: reverse the last dimension); or
                several of them, as a sequence, an array (N, H, W, 3), or a tensor (N, 3, H, W).
            batch_size: how many of several pictures the networks look at at once, if they come to one padded size;
                others would pad each other, and change what is found near their edges.

        Returns:
            A `PictureDetections` for one picture, a list of them for several.

        Raises:
            UserError: a picture cannot be read, or an array is none of these.
        """
        if isinstance(pictures, torch.Tensor):
            pictures = _as_arrays(pictures)
        if isinstance(pictures, (str, os.PathLike)) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
            return self._detect([self._sample(pictures)])[0]
        found: list[PictureDetections] = []
        waiting: list[Sample] = []
        for sample in map(self._sample, pictures):
            if waiting and (len(waiting) >= batch_size or self._padded(sample) != self._padded(waiting[0])):
                found += self._detect(waiting)
                waiting = []
            waiting.append(sample)
        return found + (self._detect(waiting) if waiting else [])

    @torch.inference_mode()
    def _detect(self, samples: Sequence[Sample]) -> list[PictureDetections]:
        batch = collate(samples, self._size_divisor).to(self.device)
        return [
            self._named(one.boxes.float().cpu().numpy(), one.scores.float().cpu().numpy(), one.labels.cpu().numpy())
            for one in self.network(batch.images, batch.sizes, batch.original_sizes)
        ]

    def _padded(self, sample: Sample) -> tuple[int, int]:
        height, width = sample.image.shape[1:]
        return padded_size((height, width), self._size_divisor)

    def _sample(self, picture: Picture) -> Sample:
        array = _checked(picture) if isinstance(picture, np.ndarray) else read_picture(Path(picture))
        nothing = np.zeros((0, 4), dtype=np.float32)
        resized = self._resize(array, nothing, None, seed=0).picture
        return Sample(
            image=torch.from_numpy(resized).permute(2, 0, 1),
            image_id=0,
            index=0,
            original_size=array.shape[:2],
            boxes=torch.from_numpy(nothing),
            labels=torch.zeros(0, dtype=torch.int64),
            crowds=torch.zeros(0, dtype=torch.bool),
            proposals=None,
            seed=0,
        )

    def _named(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> PictureDetections:
        names = [self.categories.name(label) for label in labels.tolist()]
        return PictureDetections(
            boxes, scores, labels, names, np.array(self.categories.ids, dtype=np.int64)[labels - 1]
        )


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise UserError(
            f"a picture is an array uint8 (H, W, 3) in RGB order with values 0–255, not {array.dtype} {array.shape}"
        )
    return np.require(array, requirements=["C", "W"])  # torch warns of arrays that are read-only


def _as_arrays(pictures: torch.Tensor) -> np.ndarray:
    """A tensor (3, H, W) or (N, 3, H, W) as an array (H, W, 3) or (N, H, W, 3)."""
    if pictures.ndim not in (3, 4) or pictures.shape[-3] != 3:
        raise UserError(f"a tensor of pictures is uint8 (N, 3, H, W) or (3, H, W), not {tuple(pictures.shape)}")
    return pictures.cpu().movedim(-3, -1).numpy()
