"""Finds, measures and decodes the image files of a split; adds their defects to the findings.

Shapes: M images.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.data.decoder_complaints import decoder_complaints
from detection.data.file_names import leads_out, match_file_names, present_files
from detection.data.findings import Example, Findings
from detection.data.images import ImageError, image_size, image_size_and_orientation, image_sizes, read_image
from detection.data.orientation import is_as_stored
from detection.data.shards import Shards, path_of_member
from detection.data.similar_images import SIDE, thumbnail
from detection.data.tables import Tables

UNKNOWN_SIDE = int(np.iinfo(np.int32).max)  # stands for an unknown size: no box reaches beyond it
DIGEST_BYTES = 16
_TOGETHER = 64  # images that are decoded between two reads of the decoder's messages
_DARK = 16  # of 255; 12-bit data in 16 bits reach 4095 of 65535, which is 15.9 of 255


def refuse_names_that_lead_out(names: Sequence[str], findings: Findings) -> np.ndarray:
    """Whether each file name is one within the image folder, bool (M,)."""
    out = [i for i, name in enumerate(names) if (name[0] in "/\\" or ".." in name or ":" in name) and leads_out(name)]
    findings.add("image_name_outside", len(out), (names[i] for i in out))
    within = np.ones(len(names), dtype=bool)
    within[out] = False
    return within


@dataclass(frozen=True)
class ImagePlaces:
    """Where the images of a split are.

    root: their folder. files: M names relative to it, or of members of its tar files. there bool (M,): those that
    exist, or were not looked for. tars: the tar files' names relative to the root; places int64 (M, 3): see `Shards`,
    −1 for an image that is not there; both None for image files.
    """

    root: Path
    files: list[str]
    there: np.ndarray
    tars: list[str] | None = None
    places: np.ndarray | None = None

    def path(self, i: int) -> Path:
        """The path of image i."""
        return path_of_image(self.root, self.files[i], i, self.tars, self.places)


def path_of_image(root: Path, file: str, i: int, tars: Sequence[str] | None, places: np.ndarray | None) -> Path:
    """The path of image i of an `ImagePlaces`."""
    if tars is None or places is None or places[i, 0] < 0:
        return root / file
    return path_of_member(root, tars, file, places[i])


def find_members(shards: Shards, names: Sequence[str], within: np.ndarray, findings: Findings) -> ImagePlaces:
    """The member of each name; see `find_files`. Names of several members are counted."""
    row_of = dict(zip(shards.names, range(len(shards.names)), strict=True))
    if len(row_of) < len(shards.names):
        _count_repeated_members(shards, set(names), findings)
    there = np.fromiter((name in row_of for name in names), bool, len(names)) & within
    files = list(names)
    if not there[within].all():
        places = f"in none of the {len(shards.tars)} tar files of {shards.root}"
        files, there = _matched(names, within, set(row_of), findings, lambda name: f"{name} {places}")
    places_of = np.full((len(names), 3), -1, dtype=np.int64)
    rows = [row_of[files[i]] for i in np.flatnonzero(there).tolist()]
    places_of[there] = shards.places[np.array(rows, dtype=np.int64)]
    return ImagePlaces(shards.root, files, there, shards.tars, places_of)


def _count_repeated_members(shards: Shards, wanted: set[str], findings: Findings) -> None:
    first: dict[str, int] = {}
    for row, name in enumerate(shards.names):
        other = first.setdefault(name, row)
        if other != row and name in wanted:
            one, two = (shards.tars[int(shards.places[place, 0])] for place in (other, row))
            where = f"{one} and in {two}" if one != two else f"{one}, twice"
            findings.add("image_member_twice", 1, [f"{name} in {where}"])


def find_files(
    image_root: Path, names: Sequence[str], within: np.ndarray, findings: Findings, folders: Sequence[Path] = ()
) -> ImagePlaces:
    """The file of each name, by one listing of each folder.

    A file whose name is spelled differently is found, too (see `file_names`). within bool (M,): the names to look for.
    folders: those below `image_root` in which such files are sought; none: in all.
    """
    sought, named = np.flatnonzero(within).tolist(), set()
    keys = np.empty(len(sought), dtype=np.int64)
    for place, i in enumerate(sought):
        folder, _ = parts = os.path.split(names[i])
        named.add(folder)
        keys[place] = hash(parts)  # 64 bits: a set of millions of names would take hundreds of MB
    present = [np.fromiter(_hashes_of_files(image_root, folder), np.int64) for folder in named]
    there = np.zeros(len(names), dtype=bool)
    there[sought] = np.isin(keys, np.concatenate([np.zeros(0, np.int64), *present]))
    if there[within].all():
        return ImagePlaces(image_root, list(names), there)
    present_below = set()
    for folder in folders or [image_root]:
        start = Path(os.path.relpath(folder, image_root)).as_posix()
        present_below |= {file if start == "." else f"{start}/{file}" for file in present_files(Path(folder))}
    found = _matched(names, within, present_below, findings, lambda name: str(image_root / name))
    return ImagePlaces(image_root, *found)


def _matched(
    names: Sequence[str], within: np.ndarray, present: set[str], findings: Findings, describe: Callable[[str], str]
) -> tuple[list[str], np.ndarray]:
    """(the file of each name; whether it is among those present, bool (M,)). describe: an absent name, in messages."""
    there = np.zeros(len(names), dtype=bool)
    sought = np.flatnonzero(within).tolist()
    matched = match_file_names([names[i] for i in sought], present)
    findings.add(
        "image_respelled",
        len(matched.respelled),
        (f"{name} → {file}: {difference}" for name, file, difference in matched.respelled),
    )
    findings.add(
        "image_missing",
        len(matched.absent),
        (describe(name) + (f" ({remark})" if remark else "") for name, remark in matched.absent),
    )
    files = list(names)
    for i, file in zip(sought, matched.files, strict=True):
        files[i] = file
    absent = {name for name, _ in matched.absent}
    there[sought] = [names[i] not in absent for i in sought]
    return files, there


def find_images(
    root: Path,
    shards: Shards | None,
    names: Sequence[str],
    within: np.ndarray,
    findings: Findings,
    folders: Sequence[Path] = (),
) -> ImagePlaces:
    """`find_members` if the images are in tar files, else `find_files`."""
    if shards is None:
        return find_files(root, names, within, findings, folders)
    return find_members(shards, names, within, findings)


def _hashes_of_files(root: Path, folder: str) -> Iterator[int]:
    """The hash of (folder, name) for each file in a folder below the root."""
    with contextlib.suppress(OSError), os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.is_file():
                yield hash((folder, entry.name))


def sizes_of(
    images: ImagePlaces, image_ids: np.ndarray, stated: tuple[np.ndarray, np.ndarray], findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths int64 (M,), the absent ones from the files' headers.

    stated: heights and widths as the label file gives them, 0 where it gives none, negative where its value is
    unusable.
    """
    there = images.there
    heights, widths = stated
    unusable = (heights < 0) | (widths < 0)
    absent = ~unusable & ((heights == 0) | (widths == 0))
    if not (unusable.any() or absent.any()):
        return stated
    heights, widths = heights.copy(), widths.copy()
    for i in np.flatnonzero(absent & there).tolist():
        try:
            heights[i], widths[i] = image_size(images.path(i))
            findings.add("size_missing", 1, [f"image {image_ids[i]}"])
        except ImageError as error:
            findings.add("size_unreadable", 1, [f"image {image_ids[i]}: {error}"])
            unusable[i] = True
    unusable |= absent & ~there
    heights[unusable] = widths[unusable] = UNKNOWN_SIDE
    return heights, widths


def without_unusable_images(
    tables: Tables,
    root: Path,
    shards: Shards | None,
    missing: bool,
    unreadable: bool,
    findings: Findings,
    folders: Sequence[Path] = (),
) -> Tables:
    """The tables without the images that have no file, or no size in labels and file; they are counted. folders: see
    `find_files`."""
    nobody = Findings()
    within = refuse_names_that_lead_out(tables.names, nobody)
    images = find_images(root, shards, tables.names, within, nobody, folders)
    there = images.there
    kept = np.ones(len(tables.names), dtype=bool)
    if missing:
        kept &= there | ~within
        findings.add("image_left_out", int((~kept).sum()), (tables.names[i] for i in np.flatnonzero(~kept).tolist()))
    sizeless = (
        np.flatnonzero(there & (tables.heights == 0) & (tables.widths == 0)) if unreadable else np.zeros(0, np.int64)
    )
    if len(sizeless):
        found = image_sizes([images.path(i) for i in sizeless.tolist()])
        left_out = sizeless[found[:, 0] == 0]
        kept[left_out] = False
        findings.add("image_unreadable_left_out", len(left_out), (tables.names[i] for i in left_out.tolist()))
    return tables if kept.all() else tables.of_images(kept)


@dataclass(frozen=True)
class _Look:
    """The properties of one image. problem: why it cannot be used. brightest: its largest sample value. as_stored:
    whether its stated size shows that the annotations were made on the pixels before EXIF rotation; None where EXIF
    does not swap the sides, or where the size does not show it."""

    problem: str | None = None
    digest: bytes = bytes(DIGEST_BYTES)
    thumbnail: np.ndarray | None = None
    brightest: int = 255
    orientation: int = 1
    as_stored: bool | None = None


def look_at_images(
    images: ImagePlaces, sizes: tuple[np.ndarray, np.ndarray], stated: np.ndarray, findings: Findings
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes every image and returns digests of their pixels, uint8 (M, DIGEST_BYTES), and their thumbnails, uint8
    (M, SIDE, SIDE) (see `similar_images`); zeros for those not decoded.

    Adds to the findings: images that cannot be read or have another size than stated; images with decoder warnings;
    equal images; nearly black images; rotated images whose EXIF orientation contradicts the other images' sizes.

    Args:
        sizes: heights and widths (M,). stated: whether the label file states the size, bool (M,).
    """
    files, there = images.files, images.there
    heights, widths = sizes
    looks: dict[int, _Look] = {}
    sought = np.flatnonzero(there & (heights < UNKNOWN_SIDE)).tolist()

    def look(i: int) -> _Look:
        return _look(images.path(i), (int(heights[i]), int(widths[i])), bool(stated[i]))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(sought), _TOGETHER):
            group = sought[start : start + _TOGETHER]
            with decoder_complaints() as complaints:
                looks.update(zip(group, pool.map(look, group), strict=True))
            for i in group:
                problem = looks[i].problem
                if problem is not None:
                    findings.add("image_unreadable", 1, [problem])
                elif complaints:  # of an unknown image of the group: decode each once more, alone
                    with decoder_complaints() as own:
                        look(i)
                    findings.add(
                        "image_doubtful",
                        min(1, len(own)),
                        [Example(f"{images.path(i)}: {text}", files[i]) for text in own[:1]],
                    )
    sound = {i: one for i, one in looks.items() if one.problem is None}
    dark = [
        Example(f"{files[i]}: at most {one.brightest} of 255", files[i])
        for i, one in sound.items()
        if 0 < one.brightest <= _DARK
    ]
    findings.add("image_nearly_black", len(dark), dark)
    _compare_orientations({files[i]: one for i, one in sound.items()}, findings)
    digests = np.zeros((len(files), DIGEST_BYTES), dtype=np.uint8)
    thumbnails = np.zeros((len(files), SIDE, SIDE), dtype=np.uint8)
    for i, one in sound.items():
        digests[i] = np.frombuffer(one.digest, dtype=np.uint8)
        if one.thumbnail is not None:
            thumbnails[i] = one.thumbnail
    equal = equal_images(digests, files)
    findings.add("image_content_twice", len(equal), (Example(f"{first} and {other}", first) for first, other in equal))
    return digests, thumbnails


def equal_images(
    digests: np.ndarray,
    files: Sequence[str],
    other_digests: np.ndarray | None = None,
    other_files: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """(file, equal file) for each image whose pixels equal those of an earlier image, or of one in `other_files`.

    digests: see `look_at_images`. One file under two ids is not a pair.
    """
    first_of: dict[bytes, str] = {}
    pairs = []
    if other_digests is not None:
        first_of = {digest.tobytes(): file for digest, file in zip(other_digests, other_files, strict=True)}
    first_of.pop(bytes(DIGEST_BYTES), None)
    for digest, file in zip(digests, files, strict=True):
        key = digest.tobytes()
        if key == bytes(DIGEST_BYTES):
            continue
        other = first_of.get(key) if other_digests is not None else first_of.setdefault(key, file)
        if other is not None and (other_digests is not None or other != file):
            pairs.append((file, other))
    return pairs


def _look(path: Path, size: tuple[int, int], stated: bool) -> _Look:
    try:
        image = read_image(path, size)
    except ImageError as error:
        return _Look(problem=str(error))
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(image.data)
    upright, orientation = image_size_and_orientation(path)
    as_stored = None
    if stated and orientation >= 5 and upright[0] != upright[1]:
        as_stored = is_as_stored(size, upright, orientation)
    return _Look(None, digest.digest(), thumbnail(image), int(image.max()), orientation, as_stored)


def _compare_orientations(looks: dict[str, _Look], findings: Findings) -> None:
    """Adds the images that EXIF rotates to the findings if other images' sizes show that the annotations were made on
    the pixels as stored.
    """
    turned: dict[bool, list[Example]] = defaultdict(list)
    for file, look in looks.items():
        if look.orientation > 1:
            text = f"{file}: orientation {look.orientation}"
            turned[look.as_stored is not True].append(Example(text, file))
    if turned[False]:
        findings.add("orientation_doubtful", len(turned[True]), turned[True])
