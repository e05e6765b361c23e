"""The test split and the configuration → the test images whose files also stand in train, and the classes that are
rarer in one of the two.

Equal files are found here, which needs few reads: only files of equal size are compared. Images that are equal in their
pixels but not in their bytes are found by `tools/check_dataset.py`, which decodes every image.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.files import sha256_of_stream, user_path
from detection import config as settings
from detection.data.demo import demo_files
from detection.data.index import DatasetIndex
from detection.data.index_cache import open_kept
from detection.data.readers.source import Source
from detection.data.shards import image_paths, open_file, shard_files, size_of
from detection.experiment.class_rates import rarer_labels
from detection.experiment.datasets import facts_of, load_split
from detection.experiment.label_location import locate
from detection.experiment.stored_configuration import is_same_folder
from detection.report.seen import RarerLabels

logger = logging.getLogger(__name__)


def data_of_training(data: settings.Data, trained: settings.Data) -> settings.Data | None:
    """The configuration of the training images' labels, None if it is not known where they are.

    data: of the evaluation, whose test images may be of another data set. trained: of the training.
    """
    if is_same_folder(data.root, trained.root):
        test = data.test if trained.split.test is None else trained.test
        return dataclasses.replace(data, split=trained.split, format=trained.format, test=test)
    alike = data.split == trained.split and data.test.name == trained.test.name
    return data if alike else None  # the same data set in another folder


def training_source(data: settings.Data) -> Source | None:
    """The labels of data.train, or None if they or their images are not at hand. Nothing is created. Every rank calls
    this."""
    root = user_path(data.root)
    if data.layout == "demo" and not demo_files(root, data.train.name)[0].is_file():
        return None  # `locate` would draw the images
    try:
        source = locate(data, "train")
    except UserError:
        return None
    try:
        there = source.images.is_dir() or shard_files(source.images) is not None
    except UserError:
        there = False
    return source if source.labels.exists() and there else None


def compare_with_train(
    data: settings.Data, source: Source | None, test: DatasetIndex
) -> tuple[list[str] | None, list[RarerLabels]]:
    """The test images that also stand in train, None if that is not known, and the classes of `rarer_labels`.

    source: of `training_source`.
    """
    if source is None:
        return None, []
    try:
        train = _open_training(data, source)
        shared = images_also_in_train(source, train, test)
    except UserError as error:  # the evaluation is none of the training annotations' business
        logger.warning("%s; the test images were not compared with the training images", error)
        return None, []
    return shared, rarer_labels(train, test)


def _open_training(data: settings.Data, source: Source) -> DatasetIndex:
    """The index of data.train, whose images need not be there."""
    kept = open_kept(facts_of(data, "train", "present")) if data.cache else None
    return kept.index if kept else load_split(data, "train", source, "listed")


def images_also_in_train(source: Source, train: DatasetIndex, test: DatasetIndex) -> list[str]:
    """The names of the test images whose bytes are those of a training image, in the order of the split.

    source: of `training_source`; train: the index of its labels.

    Raises:
        UserError: tar files with the training images cannot be used.
    """
    rows = range(len(train))
    if train.image_root is None:
        path_of = image_paths(source.images)
        paths: Iterable[Path] = (path_of(train.file_name(i)) for i in rows)
    else:
        paths = map(train.path, rows)
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path, size in _sizes(paths):
        by_size[size].append(path)
    digests: dict[Path, str | None] = {}

    def digest(path: Path) -> str | None:
        if path not in digests:
            try:
                with open_file(path) as file:
                    digests[path] = sha256_of_stream(file)
            except OSError:
                digests[path] = None
        return digests[path]

    shared = []
    for path, size in _sizes(test.path(i) for i in range(len(test))):
        own = digest(path) if size in by_size else None
        if own is not None and any(digest(other) == own for other in by_size[size]):
            shared.append(path.name)
    return shared


def _sizes(paths: Iterable[Path]) -> Iterable[tuple[Path, int]]:
    for path in paths:
        try:
            yield path, size_of(path)
        except OSError:
            continue
