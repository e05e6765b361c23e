"""A folder → where its COCO annotation files are, and the images that each lists.

Exporters differ in the names: COCO itself and Datumaro write `annotations/instances_train2017.json`, CVAT
`annotations/instances_default.json`, Roboflow `train/_annotations.coco.json`, Label Studio `result.json`, FiftyOne
`labels.json`, LVIS `lvis_v1_train.json`. The split is the one that the file's name or folder says; the folder of the
images is the one in which most of the first names are found.
"""

from __future__ import annotations

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.text import first_of
from detection.common.json_stream import read_members
from detection.common.label_kinds import start_of
from detection.data.file_names import spelling_key
from detection.data.foreign_names import ImageFiles
from detection.data.listing import Listing
from detection.data.readers.coco import CocoSource
from detection.data.readers.layout import WHOLE, Layout
from detection.data.readers.source import Options, Source
from detection.data.shards import shard_files
from detection.data.split_words import split_of

_LOOKED_AT = 1 << 22  # bytes at a file's beginning and at its end that are searched for its members
_MEMBER = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_OTHER_TASKS = ("captions", "person_keypoints", "keypoints", "panoptic", "stuff", "image_info", "image_ids")
_SAMPLE = 200  # names by which the folder of the images is found


def find_layouts(listing: Listing, options: Options) -> list[Layout]:
    """The data set that the COCO files of a folder make up: none or one.

    Raises:
        UserError: several files are of the same split.
    """
    files = [file for file in listing.with_ending(".json") if _is_coco(listing.root / file)]
    if not files:
        return []
    by_split: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_split[split_of(file) or WHOLE].append(file)
    chosen = {split: _the_one(listing, split, own) for split, own in by_split.items()}
    notes = []
    if WHOLE in chosen and len(chosen) > 1:
        notes.append(f"{chosen.pop(WHOLE)} is of no split")

    def source(split: str) -> Source:
        return source_of_file(listing, chosen[split], split)

    splits: dict[str, Callable[[], Source]] = {split: functools.partial(source, split) for split in chosen}
    return [Layout("coco", ", ".join(chosen.values()), splits, tuple(notes))]


def _the_one(listing: Listing, split: str, files: list[str]) -> str:
    """The file of boxes among those of a split."""
    boxes = [file for file in files if not file.rpartition("/")[2].lower().startswith(_OTHER_TASKS)] or files
    named = [file for file in boxes if file.rpartition("/")[2].lower().startswith("instances")] or boxes
    if len(named) > 1:
        what = "the whole set" if split == WHOLE else split
        key = "test" if split in ("test", "val") else "train"
        raise UserError(
            f"{listing.root}: several COCO files are of {what}: {first_of(named)}; name the one that is meant as "
            f"data.{key}.annotations, and its images' folder as data.{key}.images"
        )
    return named[0]


def source_of_file(listing: Listing, file: str, split: str) -> CocoSource:
    """The labels of a file of the listing, with the folder of its images.

    Raises:
        UserError: the file is no COCO file.
    """
    path = listing.root / file
    names = _first_names(path)
    near = f"{file.rpartition('/')[0]}/{split}/{_year(file)}"
    base = _image_folder(listing, names, near)
    if base is None and (shards := _shard_folder(listing, near)) is not None:
        return CocoSource(path, listing.root / shards)
    if base is None:
        return CocoSource(path, listing.root, listing.image_files, near)
    below = [name.removeprefix(f"{base}/") for name in listing.below(base)]
    return CocoSource(path, listing.root / base, ImageFiles(below), near)


def _shard_folder(listing: Listing, near: str) -> str | None:
    """The folder of the tar files that hold the images; among several the one whose path shares most with `near`."""
    folders = sorted({file.rpartition("/")[0] for file in listing.with_ending(".tar")})
    folders = [folder for folder in folders if shard_files(listing.root / folder) is not None]
    parts = set(near.lower().split("/"))
    alike = [len(parts & set(folder.lower().split("/"))) for folder in folders]
    return folders[alike.index(max(alike))] if alike and alike.count(max(alike)) == 1 else None


def _year(file: str) -> str:
    """The last word of a file's name, such as train2017, which may name the folder of its images."""
    return file.rpartition("/")[2].rpartition(".")[0].rpartition("_")[2]


def _first_names(path: Path) -> list[str]:
    """The first file names that a file lists."""
    for member, block in read_members(path, "segmentation"):
        if member == "images" and isinstance(block, list):
            names = [entry.get("file_name") for entry in block[:_SAMPLE] if isinstance(entry, dict)]
            return [name for name in names if isinstance(name, str)]
    return []


def _image_folder(listing: Listing, names: list[str], near: str) -> str | None:
    """The folder that the names are relative to; None if there is none that has them all."""
    votes: Counter[str] = Counter()
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in listing.images:
        by_name[spelling_key(file).rsplit("/", 1)[-1]].append(file)
    for name in names:
        key = spelling_key(name)
        for file in by_name.get(key.rsplit("/", 1)[-1], ()):
            own = spelling_key(file)
            if own == key or own.endswith(f"/{key}"):
                votes[file[: len(file) - len(key)].rstrip("/") if own != key else ""] += 1
    if not votes:
        return None
    parts = set(near.lower().split("/"))
    most = max(votes.values())
    best = [folder for folder, count in votes.items() if count == most]
    best.sort(key=lambda folder: (-len(parts & set(folder.lower().split("/"))), folder.count("/"), folder))
    return best[0] if most == len(set(names)) else None


def _is_coco(path: Path) -> bool:
    """Whether a JSON file lists images, and annotations or categories."""
    start = start_of(path, _LOOKED_AT)
    if not start.lstrip().startswith(b"{"):
        return False
    try:
        with path.open("rb") as file:
            file.seek(max(_LOOKED_AT, path.stat().st_size - _LOOKED_AT))
            end = file.read(_LOOKED_AT)
    except OSError:
        return False
    members = set(_MEMBER.findall(start)) | set(_MEMBER.findall(end))
    return b"images" in members and len(members) > 1
