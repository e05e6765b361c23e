"""Configuration → the images and annotations of a split."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.text import first_of
from detection import config as settings
from detection.common.environment import environment_number
from detection.config_file import config_to_dict
from detection.data.discovery import find_layout, source_of_split, split_for
from detection.data.division import part_of
from detection.data.findings import Purpose
from detection.data.index import DatasetIndex, load_index
from detection.data.index_cache import is_kept, keep, open_kept
from detection.data.proposal_store import ProposalStore
from detection.data.readers.source import Source
from detection.data.shards import shard_files
from detection.experiment.class_matching import match_classes
from detection.experiment.label_location import Which, label_options, locate
from detection.training.consensus import require_same, together
from detection.training.distributed import gather_objects, is_main, on_main, world_size

Check = Literal["listed", "present", "sound"]  # what is required of the images, see `load_index`

PURPOSES: dict[str, Purpose] = {"train": "training", "test": "evaluation"}  # what each split is read for

logger = logging.getLogger(__name__)


def open_split(data: settings.Data, which: Which) -> DatasetIndex:
    """The index of the configured split, after a check that its images exist; repairs are logged once. Every rank calls
    this and gets the same index.

    The training split is loaded for training, the test split for evaluation.

    Raises:
        UserError: files are missing, or annotations cannot be used, or they are not the same on all ranks.
    """
    split = getattr(data, which)
    index = read_split(data, which, "present")
    require_same(f"data.{which}", {"annotations": index.fingerprint, "images": len(index)})
    if split.limit is not None:
        index = index.subset(np.arange(min(split.limit, len(index))))
    summary = index.findings.summary()
    if is_main():  # one log line for all ranks
        if data.layout == "auto" and split.annotations is None:
            logger.info("data.%s: %s", which, contents_of(index))
        if summary:
            logger.warning("%s: %s", index.annotation_file, summary)
    return index


def contents_of(index: DatasetIndex) -> str:
    """How many images and objects a split has, and its classes, in words."""
    names = index.category_names
    return f"{len(index)} images, {len(index.boxes)} objects, {len(names)} classes ({first_of(names, 8)})"


def load_split(
    data: settings.Data,
    which: Which,
    source: Source,
    check: Check,
    purpose: Purpose | None = None,
) -> DatasetIndex:
    """The index of a split's labels, or of the part of them that `data.split` gives it.

    purpose: None: training or evaluation, as the split is used.
    """
    share, seed = data.split.test, data.split.seed
    return load_index(
        source,
        None if check == "listed" else source.images,
        name=getattr(data, which).name,
        purpose=purpose or PURPOSES[which],
        check=check,
        skip_missing=data.skip_missing,
        skip_unreadable=data.skip_unreadable,
        part=None if share is None else lambda tables: part_of(tables, which, share, seed),
    )


def read_split(data: settings.Data, which: Which, check: Check) -> DatasetIndex:
    """The index of a split: from the cache, if `data.cache` allows and nothing has changed, else read from the labels
    and kept. Every rank calls this. One rank of each machine reads, and the others map what it has kept.

    Raises:
        UserError: as `open_split`.
    """
    if not data.cache or data.layout == "demo":
        source = locate(data, which)
        return together(f"reading {source.labels}", lambda: load_split(data, which, source, check))
    facts = facts_of(data, which, check)
    kept = together(f"looking for the index of data.{which}", lambda: open_kept(facts))
    if all(gather_objects(kept is not None)):
        assert kept is not None
        for line in kept.said if is_main() else ():
            logging.getLogger(source_of_split.__module__).info("%s", line)
        return kept.index
    said: list[str] = []
    source = locate(data, which, said)

    def read() -> DatasetIndex:
        since = time.time()
        index = load_split(data, which, source, check)
        keep(
            facts,
            index,
            roots=files_of(data, which, source),
            labels=source.labels,
            images=source.format != "coco",
            since=since,
            said=said,
        )
        return index

    def read_first() -> DatasetIndex | None:
        first = world_size() == 1 or environment_number("LOCAL_RANK", 0) == 0
        return kept.index if kept else read() if first else None

    def read_others() -> DatasetIndex:
        again = open_kept(facts)
        return again.index if again else load_split(data, which, source, check)

    index = together(f"reading {source.labels}", read_first)
    return together(f"reading {source.labels}", lambda: read_others() if index is None else index)


_FACTS = ("layout", "format", "train", "test", "split", "classes", "first_pixel", "skip_missing", "skip_unreadable")


def facts_of(data: settings.Data, which: Which, check: Check) -> dict[str, Any]:
    """What decides the index of a split, beside the files."""
    configured = {
        name: config_to_dict(getattr(data, name)) if name in ("train", "test", "split") else getattr(data, name)
        for name in _FACTS
    }
    root = user_path(data.root)
    return {**configured, "root": [str(root), str(root.absolute())], "which": which, "check": check}


def files_of(data: settings.Data, which: Which, source: Source) -> list[Path]:
    """The files and folders that decide what is found as the labels of a split, and what they hold.

    Where a COCO file and its image folder are named, these two; else the whole folder of the data set, because all of
    it is searched, and everything else that the configuration names.
    """
    root = user_path(data.root)
    own = data.train if data.split.test is not None else getattr(data, which)
    images = shard_files(source.images) or source.places or [source.images]
    if source.format == "coco" and own.annotations is not None and own.images is not None:
        return [source.labels, *images, *([source.images] if source.images.is_dir() else ())]
    named = [split for split in (data.train, data.test) if split.annotations is not None or split.images is not None]
    paths = [
        root / user_path(path) for split in named for path in (split.annotations, split.images) if path is not None
    ]
    paths += [path.parent for path in paths if path.is_file()]
    searched = own.annotations is None
    labels = () if source.places and source.labels.is_dir() else (source.labels,)  # `places` are narrower
    return [*([root] if searched else ()), *labels, *images, *(path for path in paths if path.exists())]


def open_training_splits(data: settings.Data, *, evaluate: bool) -> tuple[DatasetIndex, DatasetIndex | None]:
    """The images for training, and with `evaluate` the test split with its classes in the order of the training split.

    The classes of the two splits are compared in both cases, if there is a test split that can be read, so that a
    difference is found before hours of training.

    Raises:
        UserError: files are missing, annotations cannot be used, or the two splits have different classes.
    """
    train = open_split(data, "train")
    test = open_split(data, "test") if evaluate else _listed(data, "test")
    if test is not None:
        own = train.category_ids, train.category_names, train.annotation_file
        test = match_classes(test, *own, quiet=not evaluate)
    images = training_images(data, train)
    log_images_left_out(data, train, images)
    return images, test if evaluate else None


def has_test_split(data: settings.Data) -> bool:
    """Whether the configuration names a test split, by files or by a layout that has one."""
    if data.test.annotations is not None or data.test.images is not None or data.split.test is not None:
        return True
    if data.layout == "auto":
        if data.cache and any(is_kept(facts_of(data, "test", check)) for check in ("present", "listed")):
            return True
        try:
            return split_for(find_layout(user_path(data.root), label_options(data)), "test", data.test.name) is not None
        except UserError:  # raised where the split is opened
            return True
    return data.layout != "files"


def _listed(data: settings.Data, which: Which) -> DatasetIndex | None:
    """The index of a split from its annotation file alone, without a check of its images; None if it cannot be used."""
    try:
        return read_split(data, which, "listed")
    except UserError:
        return None


def check_split(data: settings.Data, which: Which, source: Source | None = None) -> DatasetIndex:
    """The index of the whole configured split after every image was decoded; what was repaired is in `findings`.
    Labels and images are read, whatever the cache holds.

    source: its labels, for one rank of several that checks alone; None: they are located.

    Raises:
        UserError: annotations or images cannot be used; all defects are listed.
    """
    source = locate(data, which) if source is None else source
    logger.info("data.%s: looking at every image of %s", which, source.images)
    return load_split(data, which, source, "sound")


def split_of_images(data: settings.Data, store: ProposalStore) -> DatasetIndex:
    """The split, train or test, that a proposal store was made for.

    Raises:
        UserError: it was made for neither; the message is that of `ProposalStore.check_against`.
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


def log_images_left_out(data: settings.Data, whole: DatasetIndex, kept: DatasetIndex) -> None:
    """Logs how many images of a split have no object, and are left out of the training or are background in it."""
    if data.keep_empty and (empty := int((~whole.has_target).sum())):
        text = "%s: %d of %d images have no object and are trained on as background (data.keep_empty)"
        on_main(lambda: logger.info(text, whole.annotation_file, empty, len(whole)))
    if len(kept) < len(whole):
        text = "%s: %d of %d images have no object and are left out (data.keep_empty=true trains on them, too)"
        on_main(lambda: logger.info(text, whole.annotation_file, len(whole) - len(kept), len(whole)))


def on_unreadable(data: settings.Data) -> Literal["stop", "replace"]:
    """Whether an image that cannot be read stops a training or is replaced."""
    return "replace" if data.skip_unreadable else "stop"
