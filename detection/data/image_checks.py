"""Finds, measures and decodes the image files of a split; adds their defects to the findings.

Shapes: M images.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from detection.data.decoder_complaints import decoder_complaints
from detection.data.file_names import leads_out, match_file_names, present_files
from detection.data.findings import Example, Findings
from detection.data.images import ORIENTATION_TAG, ImageError, image_size, image_sizes, read_image
from detection.data.similar_images import SIDE, thumbnail
from detection.data.tables import Tables

UNKNOWN_SIDE = int(np.iinfo(np.int32).max)  # stands for an unknown size: no box reaches beyond it
DIGEST_BYTES = 16
_TOGETHER = 64  # images that are decoded between two reads of the decoder's messages
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257  # TIFF 6.0, section 8: ImageWidth, ImageLength
_DARK = 16  # of 255; 12-bit data in 16 bits reach 4095 of 65535, which is 15.9 of 255


def refuse_names_that_lead_out(names: Sequence[str], findings: Findings) -> np.ndarray:
    """Whether each file name is one within the image folder, bool (M,)."""
    out = [i for i, name in enumerate(names) if (name[0] in "/\\" or ".." in name or ":" in name) and leads_out(name)]
    findings.add("image_name_outside", len(out), (names[i] for i in out))
    within = np.ones(len(names), dtype=bool)
    within[out] = False
    return within


def find_files(
    image_root: Path, names: Sequence[str], within: np.ndarray, findings: Findings
) -> tuple[list[str], np.ndarray]:
    """(the file of each name, relative to `image_root`; whether it is there, bool (M,)), by one listing of each folder.

    A file whose name is spelled differently is found, too (see `file_names`). within bool (M,): the names to look for.
    """
    listings: dict[str, set[str]] = {}
    there = np.zeros(len(names), dtype=bool)
    for i in np.flatnonzero(within).tolist():
        folder, file = os.path.split(names[i])
        if folder not in listings:
            listings[folder] = _files_in(image_root / folder)
        there[i] = file in listings[folder]
    if there[within].all():
        return list(names), there
    sought = np.flatnonzero(within).tolist()
    matched = match_file_names([names[i] for i in sought], present_files(image_root))
    findings.add(
        "image_respelled",
        len(matched.respelled),
        (f"{name} → {file}: {difference}" for name, file, difference in matched.respelled),
    )
    findings.add(
        "image_missing",
        len(matched.absent),
        (f"{image_root / name}" + (f" ({remark})" if remark else "") for name, remark in matched.absent),
    )
    files = list(names)
    for i, file in zip(sought, matched.files, strict=True):
        files[i] = file
    absent = {name for name, _ in matched.absent}
    there[sought] = [names[i] not in absent for i in sought]
    return files, there


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def sizes_of(
    image_root: Path,
    image_ids: np.ndarray,
    files: Sequence[str],
    there: np.ndarray,
    stated: tuple[np.ndarray, np.ndarray],
    findings: Findings,
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths int64 (M,), the absent ones from the files' headers.

    there bool (M,): the files that exist. stated: heights and widths as the label file gives them, 0 where it gives
    none, negative where its value is unusable.
    """
    heights, widths = (side.copy() for side in stated)
    unusable = (heights < 0) | (widths < 0)
    absent = ~unusable & ((heights == 0) | (widths == 0))
    for i in np.flatnonzero(absent & there).tolist():
        try:
            heights[i], widths[i] = image_size(image_root / files[i])
            findings.add("size_missing", 1, [f"image {image_ids[i]}"])
        except ImageError as error:
            findings.add("size_unreadable", 1, [f"image {image_ids[i]}: {error}"])
            unusable[i] = True
    unusable |= absent & ~there
    heights[unusable] = widths[unusable] = UNKNOWN_SIDE
    return heights, widths


def without_unusable_images(tables: Tables, root: Path, missing: bool, unreadable: bool, findings: Findings) -> Tables:
    """The tables without the images that have no file, or no size in labels and file; they are counted."""
    nobody = Findings()
    within = refuse_names_that_lead_out(tables.names, nobody)
    files, there = find_files(root, tables.names, within, nobody)
    kept = np.ones(len(tables.names), dtype=bool)
    if missing:
        kept &= there | ~within
        findings.add("image_left_out", int((~kept).sum()), (tables.names[i] for i in np.flatnonzero(~kept).tolist()))
    sizeless = (
        np.flatnonzero(there & (tables.heights == 0) & (tables.widths == 0)) if unreadable else np.zeros(0, np.int64)
    )
    if len(sizeless):
        found = image_sizes([root / files[i] for i in sizeless.tolist()])
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
    image_root: Path,
    files: Sequence[str],
    there: np.ndarray,
    sizes: tuple[np.ndarray, np.ndarray],
    stated: np.ndarray,
    findings: Findings,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes every image and returns digests of their pixels, uint8 (M, DIGEST_BYTES), and their thumbnails, uint8
    (M, SIDE, SIDE) (see `similar_images`); zeros for those not decoded.

    Adds to the findings: images that cannot be read or have another size than stated; images with decoder warnings;
    equal images; nearly black images; rotated images whose EXIF orientation contradicts the other images' sizes.

    Args:
        files, there: see `find_files`. sizes: heights and widths (M,). stated: whether the label file states the size,
            bool (M,).
    """
    heights, widths = sizes
    looks: dict[int, _Look] = {}
    sought = np.flatnonzero(there & (heights < UNKNOWN_SIDE)).tolist()

    def look(i: int) -> _Look:
        return _look(image_root / files[i], (int(heights[i]), int(widths[i])), bool(stated[i]))

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
                        [Example(f"{image_root / files[i]}: {text}", files[i]) for text in own[:1]],
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
    orientation, (width, height) = _exif_orientation(path)
    as_stored = None
    if stated and orientation >= 5 and height != width:
        as_stored = size == (height, width)
    return _Look(None, digest.digest(), thumbnail(image), int(image.max()), orientation, as_stored)


def _exif_orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """(orientation 1 to 8, (width, height) of the stored pixels)."""
    try:
        with Image.open(path) as header:
            tags = getattr(header, "tag_v2", {})  # of a TIFF, whose size Pillow gives after rotation
            size = int(tags.get(_TIFF_WIDTH, header.width)), int(tags.get(_TIFF_HEIGHT, header.height))
            if header.format == "PNG" and "exif" not in header.info:  # Pillow would decode all pixels to find it
                return 1, size
            value = header.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything; the pixels may be sound
        return 1, (1, 1)
    return (value if isinstance(value, int) and 1 <= value <= 8 else 1), size


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
