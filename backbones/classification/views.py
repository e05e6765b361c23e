"""An image → the views that a test averages over: one crop, ten, or the whole image, at one size or several.

A view is uint8 RGB (h, w, 3). The network ends in the mean over the map and a linear layer, so its output for a whole
image is the average over all positions, which is fully-convolutional testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..common.errors import UserError

CROPS = ("centre", "ten", "whole")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Views:
    """An image → its views.

    Attributes:
        size: side of the crops.
        scales: lengths of the shorter side to which the image is resized, one after the other; None: not resized.
        crops: "centre"; "ten": corners and centre of the image and of its mirror image (Krizhevsky et al., "ImageNet
            classification with deep convolutional networks", section 4.1); "whole": the whole image and its mirror
            image (He et al., "Deep residual learning", section 4.1).
        interpolation: of the resize: "bilinear" or "bicubic".

    Raises:
        UserError: an unknown kind of crop, no scale, a size or scale below 1, or a scale smaller than the crop.
    """

    size: int
    scales: tuple[int | None, ...]
    crops: str = "centre"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.crops not in CROPS:
            raise UserError(f"crops are {self.crops!r}; they must be one of {', '.join(CROPS)}")
        if not self.scales:
            raise UserError("name at least one scale to test at")
        if min(self.size, *(scale for scale in self.scales if scale is not None), 1) < 1:
            raise UserError(f"crops of {self.size} pixels at scales {self.scales}: they must be whole numbers above 0")
        for scale in self.scales:
            if scale is not None and self.crops != "whole" and scale < self.size:
                raise UserError(
                    f"images whose shorter side is {scale} have no crop of {self.size}: crop less, or scale up"
                )

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """The views of one image.

        Raises:
            UserError: it is smaller than the crop, and no scale is set.
        """
        views = []
        for scale in self.scales:
            at_scale = resize_shorter_side(image, scale, self.interpolation)
            views += self._crops(at_scale)
            if self.crops != "centre":
                views += self._crops(at_scale[:, ::-1])
        return views

    def _crops(self, image: np.ndarray) -> list[np.ndarray]:
        if self.crops == "whole":
            return [image]
        height, width = image.shape[:2]
        if min(height, width) < self.size:
            raise UserError(f"an image of {width}×{height} pixels has no crop of {self.size}: set a scale to resize to")
        bottom, right = height - self.size, width - self.size
        corners = [(round(bottom / 2), round(right / 2))]
        if self.crops == "ten":
            corners += [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        return [image[y : y + self.size, x : x + self.size] for y, x in corners]


def resize_shorter_side(image: np.ndarray, shorter_side: int | None, interpolation: str = "bilinear") -> np.ndarray:
    """The image (H, W, 3) resized so that its shorter side has this length; the longer side is rounded down."""
    height, width = image.shape[:2]
    if shorter_side is None or min(height, width) == shorter_side:
        return image
    size = (shorter_side * width // min(height, width), shorter_side * height // min(height, width))
    return np.asarray(Image.fromarray(image).resize(size, INTERPOLATIONS[interpolation]))


def stack_views(images: Sequence[Sequence[np.ndarray]]) -> list[tuple[Tensor, Tensor]]:
    """Batches the views of several images by size: for each size, the views uint8 (V, 3, h, w) and, int64 (V,), the
    position in `images` of the image that each belongs to."""
    groups: dict[tuple[int, ...], list[tuple[np.ndarray, int]]] = {}
    for owner, views in enumerate(images):
        for view in views:
            groups.setdefault(view.shape, []).append((view, owner))
    return [
        (
            torch.from_numpy(np.stack([view for view, _ in group])).permute(0, 3, 1, 2),
            torch.tensor([owner for _, owner in group]),
        )
        for group in groups.values()
    ]
