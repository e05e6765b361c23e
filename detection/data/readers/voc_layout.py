"""A folder → where its Pascal VOC labels are: XML files beside the images, or in `Annotations/` beside `JPEGImages/`.

Splits: the lists in `ImageSets/Main/`, or else train.txt, val.txt … that list names; else the folders' names.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from backbones.common.errors import UserError
from detection.common.encodings import as_utf8
from detection.common.label_kinds import start_of, what_labels_are
from detection.data.foreign_names import is_image_name
from detection.data.listing import Listing
from detection.data.readers.layout import WHOLE, Layout
from detection.data.readers.source import Options, Source
from detection.data.readers.voc import VocSource, have_edges
from detection.data.readers.voc_xml import VocFile, class_names, parse_voc
from detection.data.readers.yolo import read_label_files
from detection.data.split_words import split_of

_LISTS = ("train", "val", "test", "trainval")
_SAMPLE = 3  # files of a folder that are looked at to recognise the format


def find_layouts(listing: Listing, options: Options) -> list[Layout]:
    """The Pascal VOC data sets in a folder: none or one.

    Raises:
        UserError: there are several sets side by side, such as VOC2007 and VOC2012.
    """
    by_folder: dict[str, list[str]] = defaultdict(list)
    # Stanford Dogs' label files have no ending.
    for file in listing.with_ending(".xml") or [file for file in listing.files if "." not in file.rpartition("/")[2]]:
        by_folder[file.rpartition("/")[0]].append(file)
    folders = {folder: files for folder, files in by_folder.items() if any(map(_is_voc(listing), files[:_SAMPLE]))}
    if not folders:
        return []
    sets = sorted(folder.rpartition("/")[0] for folder in folders if folder.lower().endswith("annotations"))
    kits = [folder for folder in sets if f"{folder}/imagesets".strip("/").lower() in listing.folders]
    if len(kits) > 1:
        raise UserError(
            f"{listing.root}: several Pascal VOC sets are there: {', '.join(kits)}; name one as data.root (--data)"
        )
    files = [file for own in folders.values() for file in own]
    splits, evidence = _splits_by_list(listing, files)
    if not splits:
        splits = _splits_by_folder(files)
        evidence = f"{next(iter(folders)) or '.'}/*{PurePosixPath(files[0]).suffix}"
    parsed = functools.cache(lambda: _parse(listing, files))
    edges_in_set = functools.cache(lambda: have_edges(parsed().values()))

    def source(split: str) -> Source:
        own = [parsed()[file] for file in splits[split]]
        return VocSource(
            labels=listing.root / _common(splits[split]),
            images=listing.root,
            files=tuple(own),
            image_files=listing.image_files,
            classes=tuple(sorted({*options.classes, *class_names(list(parsed().values()))})),
            stems=frozenset(PurePosixPath(file).stem for file in files),
            first_pixel=options.first_pixel,
            edges_in_set=edges_in_set(),
            places=listing.tops,
        )  # fmt: skip

    return [Layout("voc", evidence, {split: functools.partial(source, split) for split in splits})]


def _is_voc(listing: Listing) -> functools.partial[bool]:
    return functools.partial(_starts_as_voc, listing)


def _starts_as_voc(listing: Listing, file: str) -> bool:
    return what_labels_are(start_of(listing.root / file)).startswith("a Pascal VOC file")


def _parse(listing: Listing, files: list[str]) -> dict[str, VocFile]:
    paths = [str(listing.root / file) for file in files]
    contents = read_label_files(paths)
    return {file: parse_voc(path, data) for file, path, data in zip(files, paths, contents, strict=True)}


def _common(files: Iterable[str]) -> str:
    """The folder that all files lie in."""
    folders = [PurePosixPath(file).parent.parts for file in files]
    same = 0
    while all(len(parts) > same for parts in folders) and len({parts[same] for parts in folders}) == 1:
        same += 1
    return "/".join(folders[0][:same]) if folders else ""


def _splits_by_list(listing: Listing, files: list[str]) -> tuple[dict[str, list[str]], str]:
    """(the label files of each split that a list names, one that exists; where the lists are)."""
    by_stem = {PurePosixPath(file).stem: file for file in files}
    places = [folder for folder in listing.names_in if folder.lower().endswith("imagesets/main")]
    places += [folder for folder in listing.names_in if folder.lower().endswith("imagesets")]
    places += sorted((folder for folder in listing.names_in if folder.count("/") < 1), key=len)
    for place in places:
        lists = {name.lower(): name for name in listing.names_in[place]}
        found: dict[str, list[str]] = {}
        for split in _LISTS:
            if f"{split}.txt" in lists:
                path = f"{place}/{lists[f'{split}.txt']}".lstrip("/")
                own = [by_stem[stem] for stem in _stems_in(listing, path) if stem in by_stem]
                if own:
                    found[split] = list(dict.fromkeys(own))
        if found:
            return found, f"{place or '.'}/*.txt"
    return {}, ""


def _stems_in(listing: Listing, path: str) -> Iterable[str]:
    """What the lines of a list may name: the whole line, and its first word, without folders and endings."""
    text = as_utf8((listing.root / path).read_bytes()).decode("utf-8", "replace")
    for line in text.splitlines():
        for name in dict.fromkeys([line.strip(), *line.split(maxsplit=1)[:1]]):
            last = name.replace("\\", "/").rsplit("/", 1)[-1]
            stem, dot, ending = last.rpartition(".")
            yield stem if dot and (is_image_name(last) or ending.lower() == "xml") else last


def _splits_by_folder(files: list[str]) -> dict[str, list[str]]:
    by_split: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_split[split_of(str(PurePosixPath(file).parent / "x")) or WHOLE].append(file)
    return {WHOLE: files} if WHOLE in by_split else dict(by_split)
