"""A data set in any format that is read → the same in COCO, YOLO or Pascal VOC format, in a new folder."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite, user_path
from detection import config as settings
from detection.data.discovery import find_layout
from detection.data.index import DatasetIndex, load_index
from detection.data.readers.layout import WHOLE
from detection.data.shards import MemberPath, open_file, size_of
from detection.data.writers import coco, voc, yolo
from detection.data.writers.objects import Objects, Split, as_repaired, as_stated, new_names
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import load_split
from detection.experiment.label_location import label_options, locate

logger = logging.getLogger(__name__)

Target = Literal["coco", "yolo", "voc"]
_ORDER = ("train", "trainval", "val", "test")
_WRITERS = {"coco": coco, "yolo": yolo, "voc": voc}


def convert(
    data: settings.Data, target: Target, output: Path, *, cleaned: bool = False, link: bool = False, shards: int = 0
) -> str:
    """Writes the data set of a configuration into the new folder `output`; the original files are only read.

    Args:
        cleaned: write what a training gets, boxes clipped to their images and without those that have no area, in place
            of the boxes as they are stated.
        link: link the images instead of copying them.
        shards: write the images of each split into so many tar files, for COCO; 0: as files.

    Returns:
        What was written, in words.

    Raises:
        UserError: `output` exists or cannot be written; the data set cannot be used; its splits have different classes.
    """
    if os.path.lexists(output):
        raise UserError(f"{output}: is there already; name a new folder (--output)")
    indices = _indices(data, cleaned)
    first = next(iter(indices.values()))
    for name, index in indices.items():
        owner = first.annotation_file
        indices[name] = match_classes(index, first.category_ids, first.category_names, owner, quiet=True)
    objects = [as_repaired(index) if cleaned else as_stated(index) for index in indices.values()]
    parts = list(zip(indices.values(), objects, strict=True))
    files = _names_in_one_folder(parts) if target == "voc" else [new_names(_names(index), set()) for index, _ in parts]
    splits = [Split(*own) for own in zip(indices, indices.values(), objects, files, strict=True)]
    categories = dict(zip(_distinct(first.category_names), first.category_ids.tolist(), strict=True))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        writer = _WRITERS[target]
        lost = writer.write_labels(partial, splits, categories)
        for split in splits:
            folder = partial / writer.image_folder(split.name)
            folder.mkdir(parents=True, exist_ok=True)
            if shards:
                _write_shards(split, folder, shards)
            else:
                _place_images(split, folder, link)
        partial.chmod(0o755)
        os.replace(partial, output)
    except OSError as error:
        raise CannotWrite(f"{output} cannot be written: {error.strerror or error}; free space or choose another "
                          "folder" + (", or leave out --link" if link else "")) from error  # fmt: skip
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    lines = [f"{split.name}: {len(split.index)} images, {len(split.objects.boxes)} objects" for split in splits]
    return "\n".join([f"written: {output}", *lines, *(f"left out: {what}" for what in lost)])


def _indices(data: settings.Data, cleaned: bool) -> dict[str, DatasetIndex]:
    """Name of a split → its index, for every split that the configuration names or the folder has."""
    found: dict[str, DatasetIndex] = {}
    purpose: Literal["training", "evaluation"] = "training" if cleaned else "evaluation"
    named = data.train.annotations is not None or data.test.annotations is not None
    if data.layout == "auto" and not named and data.split.test is None:
        layout = find_layout(user_path(data.root), label_options(data))
        for name, open_source in layout.splits.items():
            source = open_source()
            found["train" if name == WHOLE else name] = load_index(
                source, source.images, name=name, purpose=purpose, check="present",
                skip_missing=data.skip_missing, skip_unreadable=data.skip_unreadable,
            )  # fmt: skip
        logger.info("%s in %s", layout, data.root)
    else:
        for which in ("train", "test"):
            split = getattr(data, which)
            if split.annotations is not None or data.layout in ("coco", "demo") or data.split.test is not None:
                found[which] = load_split(data, which, locate(data, which), "present", purpose)
    found = dict(sorted(found.items(), key=lambda item: (_ORDER.index(item[0]) if item[0] in _ORDER else 9, item[0])))
    for name, index in found.items():
        if summary := index.findings.summary():
            logger.warning("%s (%s): %s", name, index.annotation_file, summary)
    return found


def _names(index: DatasetIndex) -> list[str]:
    return [index.file_name(i) for i in range(len(index))]


def _names_in_one_folder(parts: list[tuple[DatasetIndex, Objects]]) -> list[list[str]]:
    """The new names of the images of each split where the splits share a folder: an image file that several splits have
    with the same size and objects, as VOC's `trainval` has those of `train`, has one name."""
    taken: set[str] = set()
    name_of: dict[tuple[object, ...], str] = {}
    found = []
    for index, objects in parts:
        times: Counter[tuple[object, ...]] = Counter()
        keys = []
        for i in range(len(index)):
            rows = objects.of_image(i)
            columns = (objects.boxes, objects.labels, objects.crowds)
            key = (str(index.path(i)), index.size(i), *(column[rows].tobytes() for column in columns))
            times[key] += 1  # one file under two ids of a split remains two images
            keys.append((*key, times[key]))
        new = [i for i, key in enumerate(keys) if key not in name_of]
        names = new_names([index.file_name(i) for i in new], taken)
        name_of.update(zip((keys[i] for i in new), names, strict=True))
        found.append([name_of[key] for key in keys])
    return found


def _distinct(names: list[str]) -> list[str]:
    """The names, those that were used before with a number."""
    found: dict[str, None] = {}
    for name in names:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name} {number}"
        found[own] = None
    return list(found)


def _place_images(split: Split, folder: Path, link: bool) -> None:
    for i, name in enumerate(split.files):
        source = split.index.path(i)
        if os.path.lexists(folder / name):  # of another split, and perhaps a link to the user's own file
            continue
        if not (link and _link(source, folder / name)):
            with open_file(source) as file, (folder / name).open("wb") as copy:
                shutil.copyfileobj(file, copy)


def _write_shards(split: Split, folder: Path, shards: int) -> None:
    """Writes the images in their order into tar files of about equally many. The same images give the same bytes."""
    for number, part in enumerate(np.array_split(np.arange(len(split.files)), min(shards, len(split.files)))):
        with tarfile.open(folder / f"{split.name}-{number:06d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for i in part.tolist():
                source = split.index.path(i)
                member = tarfile.TarInfo(split.files[i])
                member.size = size_of(source)
                with open_file(source) as file:
                    tar.addfile(member, file)


def _link(source: Path, link: Path) -> bool:
    """Makes a link and returns whether it could: Windows allows it to administrators and in its developer mode; to an
    image in a tar file there is none."""
    if isinstance(source, MemberPath):
        return False
    try:
        link.symlink_to(source.resolve())
    except OSError:
        return False
    return True
