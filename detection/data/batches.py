"""Samples → a batch: images padded to one size, boxes and proposals padded to the longest list.

Shapes: N images, H × W pixels after padding, G ground-truth boxes, R proposals (each the maximum over the batch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class Sample:
    """One image, ready for a batch.

    image uint8 RGB (3, h, w), a view of memory laid out (h, w, 3); original_size (height, width) in the file; boxes
    float32 (G, 4) on the image; labels int64 (G,) in 1..K; crowds bool (G,); proposals float32 (R, 4) on the image,
    best first, or None; seed: 0 … 2**63 − 1, for draws that belong to this image in this epoch; problem: why the file
    could not be read, or None; views: the image at further sizes, like `image`, for test-time augmentation.
    """

    image: Tensor
    image_id: int
    index: int
    original_size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    crowds: Tensor
    proposals: Tensor | None
    seed: int
    problem: str | None = None
    views: tuple[Tensor, ...] = ()


@dataclass
class MovableBatch:
    """Tensors of N images, as fields whose first dimension is N, and what the loader and the training do with them."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The batch with every tensor on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory, from which a copy to a GPU is asynchronous."""
        return self._map(Tensor.pin_memory)

    def halves(self) -> tuple[Self, Self]:
        """Two batches, of the first and the last half of the images, with the same padding; for a step that needs too
        much memory at once."""
        middle = (len(self) + 1) // 2
        return self._map(lambda tensor: tensor[:middle]), self._map(lambda tensor: tensor[middle:])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {name: change(tensor) for name, tensor in tensors.items()}
        return dataclasses.replace(self, **changed)


@dataclass
class Batch(MovableBatch):
    """N images.

    images uint8 RGB (N, 3, H, W) in channels-last memory, zeros at the right and bottom; sizes int64 (N, 2): (height,
    width) without padding; original_sizes int64 (N, 2): of the files; image_ids, seeds int64 (N,).
    boxes float32 (N, G, 4), labels int64 (N, G) with 0 for padding, crowds bool (N, G).
    proposals float32 (N, R, 4) and proposal_counts int64 (N,), or both None.
    problems: (image id, reason) of images that could not be read.
    views: the images at further sizes, each as (images, sizes).
    """

    sizes: Tensor
    original_sizes: Tensor
    image_ids: Tensor
    seeds: Tensor
    boxes: Tensor
    labels: Tensor
    crowds: Tensor
    proposals: Tensor | None = None
    proposal_counts: Tensor | None = None
    problems: tuple[tuple[int, str], ...] = ()
    views: tuple[tuple[Tensor, Tensor], ...] = ()

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        views = tuple((change(images), change(sizes)) for images, sizes in self.views)
        return dataclasses.replace(super()._map(change), views=views)


def collate(samples: Sequence[Sample], size_divisor: int = 1) -> Batch:
    """Joins samples, at least one, into a batch; H and W are its largest, rounded up to multiples of `size_divisor`."""
    images, sizes = _padded_images([sample.image for sample in samples], size_divisor)
    proposals = [sample.proposals for sample in samples if sample.proposals is not None]
    if proposals and len(proposals) != len(samples):
        raise ValueError("some samples of the batch have proposals and some have none")
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=torch.tensor([sample.original_size for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        seeds=torch.tensor([sample.seed for sample in samples]),
        boxes=_pad([sample.boxes for sample in samples]),
        labels=_pad([sample.labels for sample in samples]),
        crowds=_pad([sample.crowds for sample in samples]),
        proposals=_pad(proposals) if proposals else None,
        proposal_counts=torch.tensor([len(rows) for rows in proposals]) if proposals else None,
        problems=tuple((sample.image_id, sample.problem) for sample in samples if sample.problem is not None),
        views=tuple(
            _padded_images(images, size_divisor) for images in zip(*(sample.views for sample in samples), strict=True)
        ),
    )


def padded_size(size: tuple[int, int], divisor: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of `divisor`: the size of a batch of images of this size."""
    height, width = (-(-length // divisor) * divisor for length in size)
    return height, width


def _padded_images(images: Sequence[Tensor], divisor: int) -> tuple[Tensor, Tensor]:
    """Images (3, h, w) → one tensor (N, 3, H, W) in channels-last memory, and their sizes (N, 2)."""
    heights, widths = zip(*(image.shape[1:] for image in images), strict=True)
    height, width = padded_size((max(heights), max(widths)), divisor)
    padded = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for target, image in zip(padded, images, strict=True):
        target[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0).numpy()
    return torch.from_numpy(padded).permute(0, 3, 1, 2), torch.tensor([image.shape[1:] for image in images])


def _pad(lists: Sequence[Tensor]) -> Tensor:
    """Tensors (n_i, …) → (N, max n_i, …), zeros after each end; at least one row, so that they have a maximum."""
    padded = lists[0].new_zeros((len(lists), max(1, *(len(rows) for rows in lists)), *lists[0].shape[1:]))
    for target, rows in zip(padded, lists, strict=True):
        target[: len(rows)] = rows
    return padded
