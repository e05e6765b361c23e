"""A folder → where its YOLO labels are: by `data.yaml`, by Darknet's `obj.data`, or by folders of images and texts.

Which label file belongs to an image: `yolo_label_files.py`.
"""

from __future__ import annotations

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from backbones.common.errors import UserError
from detection.common.label_kinds import is_yolo_yaml, start_of
from detection.data.listing import Listing
from detection.data.readers.layout import WHOLE, Layout
from detection.data.readers.source import Options, Source
from detection.data.readers.yolo import YoloSource, read_label_files
from detection.data.readers.yolo_label_files import LabelFiles, is_yolo_text
from detection.data.readers.yolo_lines import parse_lines
from detection.data.readers.yolo_names import (
    YAML_NAMES,
    class_names_above,
    class_names_near,
    files_above,
    names_of,
    read_yaml,
)
from detection.data.readers.yolo_places import Images, Places, images_of_entry
from detection.data.split_words import split_of

_SAMPLE = 20  # label files that are looked at to recognise the format
_SPLIT_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def find_layouts(listing: Listing, options: Options) -> list[Layout]:
    """The YOLO data sets in a folder; several only if it is not plain which is meant.

    Raises:
        UserError: a data.yaml names a training set that is not here, or cannot be read.
    """
    yamls = [file for file in listing.with_ending(".yaml", ".yml") if is_yolo_yaml(start_of(listing.root / file))]
    yamls = _preferred(yamls, YAML_NAMES)
    if yamls:
        return [layout_of_yaml(listing, file, options) for file in yamls]
    darknet = [file for file in listing.with_ending(".data") if b"train" in start_of(listing.root / file)]
    if darknet:
        return [_layout_of_darknet(listing, _preferred(darknet, ("obj.data",))[0], options)]
    layout = _layout_of_folders(listing, options)
    return [] if layout is None else [layout]


def _preferred(files: list[str], names: tuple[str, ...]) -> list[str]:
    """The files nearest to the root; of several in one folder those with a usual name, if there are any."""
    depth = min((file.count("/") for file in files), default=0)
    nearest = [file for file in files if file.count("/") == depth]
    usual = [file for file in nearest if file.lower().rsplit("/", 1)[-1] in names]
    return usual if usual and len({file.rpartition("/")[0] for file in nearest}) == 1 else nearest


def layout_of_yaml(listing: Listing, file: str, options: Options) -> Layout:
    """The splits that a data.yaml names. See `find_layouts`."""
    path = listing.root / file
    content = read_yaml(path)
    places = Places(listing, file.rpartition("/")[0], str(content.get("path") or ""))
    names, found = names_of(path, content, listing)
    keypoints = _keypoint_numbers(content.get("kpt_shape"))
    splits: dict[str, Images] = {}
    notes = []
    for split, keys in _SPLIT_KEYS.items():
        entries = [content[key] for key in keys if content.get(key)]
        if not entries:
            continue
        listed = images_of_entry(places, entries[0])
        if listed is not None:
            splits[split] = listed
        elif split == "train":
            raise UserError(
                f"{path}: its `train`, {entries[0]!r}, is not there, nor is a folder of that name below "
                f"{listing.root}; correct it, or give data.train.annotations (the folder of the labels) and "
                "data.train.images"
            )
        else:
            notes.append(f"its `{split}` ({entries[0]}) is not there")
    for split, beside in _splits_beside(listing, splits).items():
        splits.setdefault(split, beside)
    return _layout(listing, path, file, splits, names, options, keypoints, tuple(found), tuple(notes))


def _splits_beside(listing: Listing, splits: Mapping[str, Images]) -> dict[str, Images]:
    """Folders of splits that a data.yaml leaves out, beside that of the training images: `test/images` beside
    `train/images`."""
    found: dict[str, Images] = {}
    folders = {name.rpartition("/")[0] for name in splits["train"].names} if "train" in splits else set()
    if len(folders) == 1:
        parts = next(iter(folders)).split("/")
        for i, part in enumerate(parts):
            for word, split in (("valid", "val"), ("val", "val"), ("test", "test")):
                other = listing.folders.get("/".join([*parts[:i], word, *parts[i + 1 :]]).lower())
                if part.lower() == "train" and other is not None and listing.below(other):
                    found.setdefault(split, Images(tuple(listing.below(other)), ()))
    return found


def _layout_of_darknet(listing: Listing, file: str, options: Options) -> Layout:
    path = listing.root / file
    text = start_of(path).decode("utf-8", "replace")
    content = {key.strip(): value.strip() for key, equals, value in (line.partition("=") for line in text.splitlines())}
    places = Places(listing, file.rpartition("/")[0], "")
    splits = {}
    for split, keys in _SPLIT_KEYS.items():
        listed = [images_of_entry(places, content[key]) for key in keys if content.get(key)]
        if listed and listed[0] is not None:
            splits[split] = listed[0]
    if not splits:
        splits[WHOLE] = Images(tuple(listing.below(file.rpartition("/")[0])), ())
    names, found = names_of(path, content, listing)
    return _layout(listing, path, file, splits, names, options, 0, tuple(found), ())


def _layout_of_folders(listing: Listing, options: Options) -> Layout | None:
    """Folders of images with texts that are YOLO's, without a file that says so."""
    labels = LabelFiles(listing)
    by_split: dict[str, list[str]] = defaultdict(list)
    seen: list[str] = []
    for folder, names in listing.names_in.items():
        images = [name for name in names if name_is_image(listing, folder, name)]
        pairs = labels.of_folder(folder, images) if images else {}
        if pairs:
            seen += [pairs[name] for name in images if name in pairs][:_SAMPLE]
            by_split[split_of(f"{folder}/x") or WHOLE] += [f"{folder}/{name}".lstrip("/") for name in images]
    kinds = {is_yolo_text(listing.root / file) for file in seen} - {None}
    if not kinds or kinds == {False}:
        return None
    lists = _lists_of_images(listing)
    if lists:
        return _layout(listing, listing.root, "train.txt", lists, class_names_near(listing)[0], options, 0, (), ())
    if WHOLE in by_split and len(by_split) > 1:
        by_split = {WHOLE: sorted(file for files in by_split.values() for file in files)}
    for folder, names in listing.names_in.items():  # a folder of images without any label
        split = split_of(f"{folder}/x")
        images = [f"{folder}/{name}" for name in names if name_is_image(listing, folder, name)]
        if images and split is not None and split not in by_split and WHOLE not in by_split:
            by_split[split] = images
    splits = {split: Images(tuple(files), ()) for split, files in by_split.items()}
    classes, evidence = class_names_near(listing)
    if classes is None and listing.is_part:
        classes, evidence = class_names_above(listing)
    found_at = os.path.dirname(seen[0]) or "."
    return _layout(
        listing, listing.root, f"{found_at}/*.txt" + (f", {evidence}" if evidence else ""), splits, classes, options,
        0, (), (),
    )  # fmt: skip


def _lists_of_images(listing: Listing) -> dict[str, Images]:
    """The images of the splits that train.txt, val.txt, valid.txt and test.txt at the root list, if they list any."""
    found: dict[str, Images] = {}
    for split, keys in _SPLIT_KEYS.items():
        for key in keys:
            if f"{key}.txt" in listing.files and is_yolo_text(listing.root / f"{key}.txt") is False:
                listed = images_of_entry(Places(listing, "", ""), f"{key}.txt")
                if listed is not None and any(name in listing.image_files.files for name in listed.names):
                    found.setdefault(split, listed)
    return found if "train" in found else {}


def name_is_image(listing: Listing, folder: str, name: str) -> bool:
    """Whether a file of the listing is an image."""
    return (f"{folder}/{name}" if folder else name) in listing.image_files.files


def _layout(
    listing: Listing,
    labels: Path,
    evidence: str,
    splits: Mapping[str, Images],
    names: Mapping[int, str] | None,
    options: Options,
    keypoints: int,
    found: tuple[tuple[str, int, tuple[str, ...]], ...],
    notes: tuple[str, ...],
) -> Layout:
    classes = dict(enumerate(options.classes)) if options.classes else names
    files = LabelFiles(listing)
    pairs = {split: files.of_images(images.names) for split, images in splits.items()}
    unlabelled = [split for split, labelled in pairs.items() if splits[split].names and not any(labelled.values())]
    if unlabelled and len(unlabelled) == len(pairs):
        raise UserError(
            f"{labels}: none of the {sum(len(images.names) for images in splits.values())} images has a label file; "
            f"looked for {PurePosixPath(next(iter(splits.values())).names[0]).stem}.txt beside the image, and in "
            "labels/ in place of images/; give data.train.annotations (the folder of the labels) and data.train.images"
        )
    notes += tuple(f"no image of {split} has a label file" for split in unlabelled)

    def source(split: str) -> Source:
        other = frozenset() if classes is not None else _numbers(
            path for key, labelled in pairs.items() if key != split for path in labelled.values()
        )  # fmt: skip
        stray = files.without_image(pairs[split])
        strays = (("label_file_without_image", len(stray), tuple(stray[:5])),)
        images, listed = _common_root(listing, splits[split].names)
        return YoloSource(
            labels=labels,
            images=images,
            files=tuple(zip(listed, pairs[split].values(), strict=True)),
            classes=classes,
            other_numbers=other,
            keypoint_numbers=keypoints,
            found=found + splits[split].found + strays,
            places=(
                *listing.tops,
                *(files_above(listing) if listing.is_part else ()),
                *_elsewhere(listing, splits[split], pairs[split].values()),
            ),
        )

    opened: dict[str, Callable[[], Source]] = {
        split: functools.partial(source, split) for split in splits if split not in unlabelled and splits[split].names
    }
    return Layout("yolo", evidence, opened, notes)


def _common_root(listing: Listing, names: Iterable[str]) -> tuple[Path, list[str]]:
    """(the folder that all images lie in, their names relative to it): the root of the data set, unless some lie
    elsewhere."""
    names = list(names)
    outside = [name for name in names if os.path.isabs(name)]
    if not outside:
        return listing.root, names
    try:
        root = Path(os.path.commonpath([str(listing.root.absolute()), *outside]))
    except ValueError:  # two drives of Windows have no common folder
        raise UserError(
            f"{listing.root}: its images lie on another drive ({outside[0]}); move them to the same"
        ) from None
    full = [name if os.path.isabs(name) else str(listing.root.absolute() / name) for name in names]
    return root, [Path(name).relative_to(root).as_posix() for name in full]


def _elsewhere(listing: Listing, images: Images, labels: Iterable[str]) -> list[Path]:
    """The folders and lists outside the data set that some images and labels were found in."""
    folders = {os.path.dirname(label) for label in labels if label}
    folders = {folder for folder in folders if not Path(folder).is_relative_to(listing.root)}
    folders |= {os.path.dirname(name) for name in images.names if os.path.isabs(name)}
    places = {Path(path) for path in (*images.outside, *folders)}
    return sorted(place for place in places if places.isdisjoint(place.parents))


def _numbers(paths: Iterable[str]) -> frozenset[int]:
    contents = read_label_files([path for path in paths if path])
    return frozenset(number for data in contents for number in parse_lines(data or b"", {}).classes)


def _keypoint_numbers(shape: object) -> int:
    """How many numbers of keypoints follow a box, by `kpt_shape: [points, 2 or 3]`; 0 without."""
    try:
        points, dimensions = (int(value) for value in shape)  # type: ignore[attr-defined]
        return points * dimensions
    except (TypeError, ValueError):
        return 0
