"""Configuration → the images and annotations of a split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.augmentation import Augmentation
from detection.data.coco.layout import resolve_split
from detection.data.demo import make_demo_dataset
from detection.data.findings import Purpose
from detection.data.index import DatasetIndex, load_index
from detection.data.proposal_store import ProposalStore
from detection.training.distributed import on_main

PURPOSES: dict[str, Purpose] = {"train": "training", "test": "evaluation"}  # what each split is read for

logger = logging.getLogger(__name__)


def open_split(data: settings.Data, which: Literal["train", "test"]) -> DatasetIndex:
    """The index of the configured split, after a check that its images are there; repairs are logged once.

    The training split is loaded for training, the test split for evaluation.

    Raises:
        UserError: files are missing, or annotations cannot be used.
    """
    split = getattr(data, which)
    annotations, images = _locate(data, which)
    index = load_index(annotations, images, name=split.name, purpose=PURPOSES[which], check="present")
    if split.limit is not None:
        index = index.subset(np.arange(min(split.limit, len(index))))
    summary = index.findings.summary()
    if summary:
        on_main(lambda: logger.warning("%s: %s", annotations, summary))
    return index


def check_split(data: settings.Data, which: Literal["train", "test"]) -> DatasetIndex:
    """The index of the whole configured split after every image was decoded; what was repaired is in `findings`.

    Raises:
        UserError: annotations or images cannot be used; all defects are listed.
    """
    split = getattr(data, which)
    annotations, images = _locate(data, which)
    logger.info("data.%s: looking at every image of %s", which, images)
    return load_index(annotations, images, name=split.name, purpose=PURPOSES[which], check="sound")


def split_of_images(data: settings.Data, store: ProposalStore) -> DatasetIndex:
    """The split, train or test, that a proposal store was made for.

    Raises:
        UserError: it was made for neither; the reasons are those of `ProposalStore.check_against`.
    """
    for which in ("test", "train"):
        index = open_split(data, which)
        if index.fingerprint == store.metadata.get("dataset_fingerprint"):
            return index.subset(np.flatnonzero(np.isin(index.image_ids, store.image_ids)))
    store.check_against(index)
    return index


def training_images(data: settings.Data, index: DatasetIndex) -> DatasetIndex:
    """The images that are trained on: all, or those with an object (`data.keep_empty`)."""
    return index if data.keep_empty else index.non_empty()


def on_unreadable(data: settings.Data) -> Literal["stop", "replace"]:
    """What an image that cannot be read does to a training."""
    return "replace" if data.skip_unreadable else "stop"


def training_augmentation(data: settings.Data) -> Augmentation:
    """What is done to a training image."""
    return Augmentation(
        shorter_sides=data.shorter_sides,
        longer_side_max=data.longer_side,
        horizontal_flip=data.horizontal_flip,
        vertical_flip=data.vertical_flip,
        albumentations=data.albumentations or None,
    )


def test_augmentation(data: settings.Data) -> Augmentation:
    """What is done to an image that is looked at: it is resized."""
    return Augmentation(shorter_sides=(data.test_shorter_side,), longer_side_max=data.test_longer_side)


def _locate(data: settings.Data, which: Literal["train", "test"]) -> tuple[Path, Path]:
    """The annotation file and the image folder: those that the configuration names, else those of the layout."""
    root, split = Path(data.root), getattr(data, which)
    if split.annotations is not None and split.images is not None:
        return root / split.annotations, root / split.images
    if split.annotations is not None or split.images is not None:
        given, missing = ("annotations", "images") if split.images is None else ("images", "annotations")
        raise UserError(
            f"data.{which}.{given} without data.{which}.{missing}: give both, or neither for the files of "
            f"data.layout={data.layout}"
        )
    if data.layout == "demo":
        on_main(lambda: make_demo_dataset(root))
        return root / "annotations" / f"instances_{split.name}.json", root / split.name
    return resolve_split(root, split.name)
