"""A folder → where its Pascal VOC labels are: XML files beside the images, or in `Annotations/` beside `JPEGImages/`.

Splits: the lists in `ImageSets/Main/`, or else train.txt, val.txt … that list names; else the folders' names.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

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
    """(the label files of each split that a list names, one that exists; where the lists are).

    Raises:
        UserError: a list names a file of which several folders have one, and not which.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_stem[PurePosixPath(file).stem].append(file)
    places = [folder for folder in listing.names_in if folder.lower().endswith("imagesets/main")]
    places += [folder for folder in listing.names_in if folder.lower().endswith("imagesets")]
    places += sorted((folder for folder in listing.names_in if folder.count("/") < 1), key=len)
    for place in places:
        lists = {name.lower(): name for name in listing.names_in[place]}
        found: dict[str, list[str]] = {}
        for split in _LISTS:
            if f"{split}.txt" in lists:
                path = f"{place}/{lists[f'{split}.txt']}".lstrip("/")
                stated = [name for name in _names_in(listing, path) if name.rpartition("/")[2] in by_stem]
                own = [
                    _file_meant(listing.root / path, name, by_stem[name.rpartition("/")[2]], split) for name in stated
                ]
                if own:
                    found[split] = list(dict.fromkeys(own))
        if found:
            return found, f"{place or '.'}/*.txt"
    return {}, ""


def _file_meant(path: Path, name: str, files: list[str], split: str) -> str:
    """Of label files of one name in several folders the one whose folder the list's line names, or else its split."""
    if len(files) == 1:
        return files[0]
    folder = PurePosixPath(name).parent.name
    for meant in (
        [file for file in files if folder and PurePosixPath(file).parent.name == folder],
        [file for file in files if split_of(str(PurePosixPath(file).parent / "x")) == split],
    ):
        if len(meant) == 1:
            return meant[0]
    raise UserError(
        f"{path}: {name} may be {' or '.join(files[:3])}; write the folder, too, or name the folder that is meant as "
        "data.train.annotations"
    )


def _names_in(listing: Listing, path: str) -> Iterable[str]:
    """What the lines of a list may name: the whole line, and its first word, without endings."""
    text = as_utf8((listing.root / path).read_bytes()).decode("utf-8", "replace")
    for line in text.splitlines():
        for name in dict.fromkeys([line.strip(), *line.split(maxsplit=1)[:1]]):
            name = name.replace("\\", "/")
            stem, dot, ending = name.rpartition(".")
            yield stem if dot and (is_image_name(name) or ending.lower() == "xml") else name


def _splits_by_folder(files: list[str]) -> dict[str, list[str]]:
    by_split: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_split[split_of(str(PurePosixPath(file).parent / "x")) or WHOLE].append(file)
    return {WHOLE: files} if WHOLE in by_split else dict(by_split)
