"""What a detector takes and returns, whatever computes it: images of any accepted kind, and the detections in one.

This module does not import PyTorch, so that the runtime of exported files (`detection.export.runtime`) can share it.
Shapes: D detections, H × W image.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
from PIL import Image

from backbones.common.errors import UserError
from backbones.common.text import first_of
from detection.common.categories import Categories
from detection.data.images import read_image, rgb_over_white

if TYPE_CHECKING:
    import pandas
    import supervision
    import torch

ImageLike: TypeAlias = "str | os.PathLike[str] | np.ndarray | torch.Tensor | Image.Image"

_ACCEPTED = (
    "a path, an array uint8 (H, W, 3) in RGB order with values 0–255, a tensor uint8 (3, H, W) of the like, or a "
    "Pillow image with 8 bits a channel"
)

_LABELME_VERSION = "5.5.0"  # of the file format; LabelMe warns where the key is missing


@dataclass(frozen=True, repr=False)
class ImageDetections:
    """The detections in one image, in descending order of score.

    Attributes:
        boxes: float32 (D, 4), `(x0, y0, x1, y1)` in pixels of the image, half-open.
        scores: float32 (D,) in 0–1.
        labels: int64 (D,) in 1..K.
        names: D class names.
        category_ids: int64 (D,), the ids of the classes in the annotation file of the training.

    The methods `to_…` give the forms of other tools; pandas and supervision are imported on use only.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: list[str]
    category_ids: np.ndarray

    @classmethod
    def of_labels(
        cls, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, categories: Categories
    ) -> ImageDetections:
        """The detections of these labels, with the names and ids of their classes."""
        names = [categories.name(label) for label in labels.tolist()]
        return cls(boxes, scores, labels, names, np.array(categories.ids, dtype=np.int64)[labels - 1])

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        found = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        return f"<ImageDetections: {len(self)}{': ' if found else ''}{first_of(found, 3)}>"

    def above(self, score: float | Sequence[float]) -> ImageDetections:
        """The detections with a score of at least `score`; K scores: of the class's own, in the order of the labels."""
        kept = self.places_above(score)
        names = [self.names[place] for place in kept.tolist()]
        return ImageDetections(self.boxes[kept], self.scores[kept], self.labels[kept], names, self.category_ids[kept])

    def places_above(self, score: float | Sequence[float]) -> np.ndarray:
        """The places of the detections that `above` keeps."""
        least = np.asarray(score)
        return np.flatnonzero(self.scores >= (least[self.labels - 1] if least.ndim else least))

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """D entries of a COCO results file; "bbox" is `[x, y, width, height]` in pixels."""
        rows = zip(self.category_ids.tolist(), self.boxes.tolist(), self.scores.tolist(), strict=True)
        return [
            {"image_id": image_id, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
            for category, (x0, y0, x1, y1), score in rows
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """D rows with the columns x0, y0, x1, y1, score, category_id and category.

        Raises:
            UserError: pandas is not installed.
        """
        frame: pandas.DataFrame = _imported("pandas", "pip install pandas").DataFrame(
            {
                **dict(zip(("x0", "y0", "x1", "y1"), self.boxes.T, strict=True)),
                "score": self.scores,
                "category_id": self.category_ids,
                "category": self.names,
            }
        )
        return frame

    def to_supervision(self) -> supervision.Detections:
        """A `supervision.Detections`; its `class_id` counts from 0, `data["class_name"]` has the D class names.

        Raises:
            UserError: supervision is not installed.
        """
        # Earlier releases require opencv-python, whose files would replace those of opencv-python-headless.
        library = _imported("supervision", "pip install 'supervision>=0.31'")
        detections: supervision.Detections = library.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels - 1,
            data={"class_name": np.array(self.names, dtype=str)},
        )
        return detections

    def to_yolo(self, width: int, height: int, *, with_scores: bool = False) -> list[str]:
        """D lines of a YOLO label file: class from 0 on, x and y of the centre, width and height as shares of the
        image's, and the score where `with_scores`."""
        _check_size(width, height)
        lines = []
        for label, (x0, y0, x1, y1), score in zip(
            self.labels.tolist(), self.boxes.tolist(), self.scores.tolist(), strict=True
        ):
            values = [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]
            lines.append(" ".join([str(label - 1), *(f"{value:.6f}" for value in values + [score] * with_scores)]))
        return lines

    def to_labelme(self, image_path: str, width: int, height: int) -> dict[str, Any]:
        """The content of a LabelMe JSON file with a rectangle for each detection.

        image_path: the image as LabelMe finds it from the folder of the JSON file.
        """
        _check_size(width, height)
        shapes: list[dict[str, Any]] = [
            {
                "label": name,
                "points": [[x0, y0], [x1, y1]],
                "group_id": None,
                "description": f"score {score:.4f}",
                "shape_type": "rectangle",
                "flags": {},
            }
            for name, (x0, y0, x1, y1), score in zip(self.names, self.boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        return {
            "version": _LABELME_VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise UserError(f"an image of {width} × {height} pixels has no area; give the image's width and height")


def _imported(name: str, command: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported, which this conversion needs ({error}); run: {command}") from error


def class_thresholds(scores: Mapping[str, float], categories: Categories, other: float) -> list[float]:
    """The least score of each of the K classes, for `ImageDetections.above`.

    Args:
        scores: by the names of classes.
        other: that of the classes that `scores` does not name.

    Raises:
        UserError: there is no class of a name; a score is not in 0–1.
    """
    for name, score in [*scores.items(), ("the other classes", other)]:
        if not 0 <= score <= 1:
            raise UserError(f"the least score of {name} is {score}; scores lie in 0–1")
    unknown = [name for name in scores if name not in categories.names]
    if unknown:
        raise UserError(f'there is no class "{unknown[0]}"; the classes are {first_of(categories.names, 20)}')
    return [scores.get(name, other) for name in categories.names]


def is_one_image(images: Any) -> bool:
    """Whether this is one image rather than several.

    Raises:
        UserError: it is neither.
    """
    arrays = isinstance(images, np.ndarray) or _is_tensor(images)
    if isinstance(images, (str, os.PathLike, Image.Image)) or (arrays and images.ndim not in (1, 4)):
        return True
    if not isinstance(images, Iterable):
        raise _not_accepted(images)
    return False


def _is_tensor(image: Any) -> TypeGuard[torch.Tensor]:
    library = sys.modules.get("torch")  # a tensor can only be of a library that is imported
    return library is not None and isinstance(image, library.Tensor)


def as_array(image: ImageLike) -> np.ndarray:
    """One image of any accepted type → uint8 (H, W, 3) RGB."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        if image.mode[0] in "IF" or 0 in image.size:
            raise _not_accepted(image)
        return rgb_over_white(image)
    if _is_tensor(image) and str(image.dtype) == "torch.uint8" and image.shape[:-2] == (3,):
        image = image.cpu().permute(1, 2, 0).numpy()
    if not isinstance(image, np.ndarray):
        raise _not_accepted(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise _not_accepted(image)
    return np.require(image, requirements=["C", "W"])  # torch warns of arrays that are read-only


def _not_accepted(image: Any) -> UserError:
    if isinstance(image, np.ndarray) or _is_tensor(image):
        found = f"{image.dtype} {tuple(image.shape)}"
    elif isinstance(image, Image.Image):
        found = f"a Pillow image of mode {image.mode} and size {image.size}"
    else:
        found = f"{type(image).__name__}"
    return UserError(f"an image is {_ACCEPTED}; not {found}")
