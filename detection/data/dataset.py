"""An index, an augmentation, optional proposals → samples, each determined by (seed, epoch, position in the index)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from detection.common.seeds import hash63
from detection.data.albumentations_pipeline import TransformError
from detection.data.augmentation import Augmentation
from detection.data.batches import Sample
from detection.data.images import PIXEL_LIMIT, ImageError, read_image
from detection.data.index import DatasetIndex
from detection.data.proposal_store import ProposalStore

ATTEMPTS = 10  # images tried in place of one that cannot be read


class DetectionDataset(Dataset[Sample]):
    """(epoch, i) → the sample of image i of a split.

    proposals: the source of each image's proposals; at most `proposal_limit` are used, best first.
    seed: the run's; (seed, epoch, i) determines every random draw.
    unreadable: what happens with an image that cannot be read. "stop": its `ImageError` is raised. "replace"
    (training): it is replaced by another image of the index, determined by the same three numbers. "blank"
    (evaluation): it is replaced by a grey image of the size that it would have after the resize, without objects. Where
    an image was replaced, the sample's `problem` is set.
    views: resizes that give each sample its `views`.
    """

    def __init__(
        self,
        index: DatasetIndex,
        augmentation: Augmentation,
        *,
        seed: int = 0,
        proposals: ProposalStore | None = None,
        proposal_limit: int | None = None,
        unreadable: Literal["stop", "replace", "blank"] = "stop",
        views: Sequence[Augmentation] = (),
    ) -> None:
        self.index = index
        self.augmentation = augmentation
        self.seed = seed
        self.proposals = proposals
        self.proposal_limit = proposal_limit
        self.unreadable = unreadable
        self.views = tuple(views)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of image i in an epoch.

        Raises:
            ImageError: the image cannot be read, or a transform fails on it, unless `unreadable` tolerates it.
            UserError: its stored proposals are damaged.
        """
        epoch, i = int(key[0]), int(key[1])
        seed = hash63(self.seed, epoch, i)
        try:
            return self._sample(i, self._read(i), seed)
        except TransformError as error:  # does not name the image
            problem = ImageError(f"{self.index.path(i)}: {error}")
        except ImageError as error:
            problem = error
        if self.unreadable == "stop":
            raise problem
        if self.unreadable == "blank":
            return self._blank((epoch, i), seed, str(problem))
        for attempt in range(ATTEMPTS):
            other = hash63(seed, attempt) % len(self.index)
            try:
                return self._sample(other, self._read(other), seed, str(problem))
            except ImageError:
                continue
        raise problem

    def size(self, key: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the sample's image, computed without reading it.

        What a pipeline crops depends on an image's size and boxes, not on its pixels: it is run on a grey image.
        """
        return self.sizes(key)[0]

    def sizes(self, key: tuple[int, int]) -> list[tuple[int, int]]:
        """`size`, and the sizes of the sample's views."""
        epoch, i = key
        seed = hash63(self.seed, epoch, i)
        height, width = self.index.size(i)
        pipeline = self.augmentation.pipeline
        if pipeline is not None and pipeline.moves_boxes and height * width <= PIXEL_LIMIT:
            with contextlib.suppress(TransformError):
                sample = self._sample(i, np.full((height, width, 3), 128, np.uint8), seed)
                return [(image.shape[1], image.shape[2]) for image in (sample.image, *sample.views)]
        return [one.target_size(height, width, seed) for one in (self.augmentation, *self.views)]

    def name(self, key: tuple[int, int]) -> str:
        """The file of image i."""
        return str(self.index.path(key[1]))

    def _blank(self, key: tuple[int, int], seed: int, problem: str) -> Sample:
        """A grey sample, created at its final size: annotations may state any size for an unreadable file."""
        _, i = key
        nothing = torch.zeros((0, 4), dtype=torch.float32)
        grey, *views = (torch.full((*size, 3), 128, dtype=torch.uint8).permute(2, 0, 1) for size in self.sizes(key))
        return Sample(
            image=grey,
            image_id=int(self.index.image_ids[i]),
            index=i,
            original_size=self.index.size(i),
            boxes=nothing,
            labels=torch.zeros(0, dtype=torch.int64),
            crowds=torch.zeros(0, dtype=torch.bool),
            proposals=None if self.proposals is None else nothing,
            seed=seed,
            problem=problem,
            views=tuple(views),
        )

    def _read(self, i: int) -> np.ndarray:
        return read_image(self.index.path(i), self.index.size(i))

    def _sample(self, i: int, image: np.ndarray, seed: int, problem: str | None = None) -> Sample:
        image_id = int(self.index.image_ids[i])
        proposals = None if self.proposals is None else self.proposals.boxes(image_id, self.proposal_limit)
        return augmented_sample(
            image,
            self.augmentation,
            image_id=image_id,
            index=i,
            objects=self.index.objects(i),
            proposals=proposals,
            seed=seed,
            problem=problem,
            views=self.views,
        )


_NO_OBJECTS = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))


def augmented_sample(
    image: np.ndarray,
    augmentation: Augmentation,
    *,
    image_id: int,
    index: int,
    objects: tuple[np.ndarray, np.ndarray, np.ndarray] = _NO_OBJECTS,
    proposals: np.ndarray | None = None,
    seed: int = 0,
    problem: str | None = None,
    views: Sequence[Augmentation] = (),
) -> Sample:
    """An image uint8 (H, W, 3) with its boxes (G, 4), labels (G,) and crowds (G,), by default none → the sample that
    the augmentation makes of them, with the image alone as the augmentations `views` make it."""
    boxes, labels, crowds = objects
    augmented = augmentation(image, boxes, proposals, seed)
    return Sample(
        image=torch.from_numpy(augmented.image).permute(2, 0, 1),
        image_id=image_id,
        index=index,
        original_size=(image.shape[0], image.shape[1]),
        boxes=torch.from_numpy(augmented.boxes),
        labels=torch.from_numpy(labels[augmented.kept]),
        crowds=torch.from_numpy(crowds[augmented.kept]),
        proposals=None if augmented.proposals is None else torch.from_numpy(augmented.proposals),
        seed=seed,
        problem=problem,
        views=tuple(torch.from_numpy(view(image, boxes, None, seed).image).permute(2, 0, 1) for view in views),
    )
