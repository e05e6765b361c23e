"""Files and folders of images → annotated images and one JSON file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import write_text
from backbones.common.progress import with_progress
from backbones.common.text import json_text, printable
from detection.base_detector import BaseDetector
from detection.common.json_stream import read_list
from detection.common.own_files import require_own
from detection.data.image_search import find_images
from detection.data.images import ImageError, read_image
from detection.data.tiff_windows import is_tiff
from detection.detector_interface import ImageDetections
from detection.huge_images import detect_in_tiff
from detection.output_folder import distinct_names, identity, lock_folder
from detection.report.drawing import draw_detections
from detection.report.drawing_file import require_replaceable, save_drawing
from detection.tiling import detect_in_tiles, scale_of_tiles, tile_windows

logger = logging.getLogger(__name__)

LISTING = "detections.json"


@dataclass(frozen=True)
class Summary:
    """How many images there were, how many of them could not be read, and how many detections were drawn."""

    images: int
    unreadable: int
    detections: int


def predict(
    detector: BaseDetector,
    paths: Sequence[Path],
    output: Path,
    *,
    min_score: float | Sequence[float] = 0.5,
    tile: int | None = None,
    overlap: float = 0.2,
) -> Summary:
    """Images → `detections.json` and a copy of each image with its detections drawn, both in `output`.

    A drawing of an earlier call is replaced; a call that would overwrite any other file is refused. An image that
    cannot be read is named in a warning and in the JSON, and the others are still processed. If the work ends early
    (Ctrl-C, a full disk), the JSON has the detections up to then, and lists the images that remain.

    Args:
        min_score: the least score of a detection that is drawn; one for each of the K classes, or one for all.
        tile, overlap: detect in tiles of this side, see `detect_in_tiles`; None detects in the whole image.

    Raises:
        UserError: min_score, tile or overlap is out of range; a path does not exist, or there is no image; the output
            cannot be written; a file would be overwritten that an earlier call did not write, or that was changed
            since; another process is writing there.
    """
    check_options(detector, min_score, tile, overlap)
    files = find_images(paths, leave_out=output)
    names = distinct_names([file.stem for file in files], ".jpg")
    with lock_folder(output):
        _refuse_to_overwrite(files, [output / name for name in names], output / LISTING)
        return _predict(detector, files, names, output, min_score, tile, overlap)


def _predict(
    detector: BaseDetector,
    files: Sequence[Path],
    names: Sequence[str],
    output: Path,
    min_score: float | Sequence[float],
    tile: int | None,
    overlap: float,
) -> Summary:
    entries: list[dict[str, Any]] = []
    drawn = unreadable = 0
    listing = output / LISTING
    if not listing.exists():  # by which a later call recognises the folder, even if this one is killed
        _write_listing(listing, [], files)
    try:
        for file, name in with_progress(zip(files, names, strict=True), len(files), "detecting"):
            try:
                found, image, (height, width) = _detect(detector, file, tile, overlap)
            except ImageError as error:
                logger.warning("%s", error)
                entries.append({"file": str(file), "error": str(error)})
                unreadable += 1
                continue
            entries.append({"file": str(file), "width": width, "height": height, "detections": as_dicts(found)})
            shown = found.above(min_score)
            drawn += len(shown)
            scale = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
            save_drawing(
                output / name,
                draw_detections(image, shown.boxes * scale, shown.labels, detector.categories.names, shown.scores),
            )
            entries[-1]["drawing"] = name
    finally:
        if entries:  # without entries an earlier listing is kept
            rest = files[len(entries) :]
            if rest:
                counts = f"the results of {len(entries)} images; {len(rest)} were not processed"
                logger.warning("stopped: %s has %s", listing, counts)
            _write_listing(listing, entries, rest)
    others = {path.name for path in output.glob("*.jpg")}.difference(names)
    if others:
        logger.warning("%s: %d images there are not of this call, and not in %s", output, len(others), LISTING)
    return Summary(len(files), unreadable, drawn)


def _detect(
    detector: BaseDetector, file: Path, tile: int | None, overlap: float
) -> tuple[ImageDetections, np.ndarray, tuple[int, int]]:
    """The detections in a file's image, an image to draw them on, and the (height, width) of the file's.

    With tiles, a TIFF that `read_image` refuses, because it is too large, is read window by window; the image to draw
    on is then smaller.
    """
    try:
        image = read_image(file)
    except ImageError as error:
        if not is_tiff(file) or not file.is_file():
            raise
        if tile is None:
            raise ImageError(f"{error}; if it is too large, --tile reads it window by window") from error
        return detect_in_tiff(detector, file, tile, overlap)
    find = detector if tile is None else partial(detect_in_tiles, detector, tile=tile, overlap=overlap)
    return find(image), image, image.shape[:2]


def _refuse_to_overwrite(files: Sequence[Path], targets: Sequence[Path], listing: Path) -> None:
    """Raises a UserError if an input would be overwritten, or a file that no earlier call wrote."""
    inputs = {identity(file) for file in files if file.exists()}
    for target in (*targets, listing):
        if target.exists() and identity(target) in inputs:
            raise UserError(
                f"{printable(str(target))}: is an input image, and would be overwritten; name another output (--output)"
            )
    require_own(listing, _is_listing, "is not a list of this tool")
    for target in targets:
        if os.path.lexists(target) and not listing.exists():
            raise UserError(
                f"{printable(str(target))}: exists already, and no {listing.name} beside it says that it is a drawing; "
                "name another output (--output), or move it away"
            )
        require_replaceable(target)


def _is_listing(path: Path) -> bool:
    """Whether the file is a list that `predict` wrote, of this version or an earlier one."""
    entries = (entry for block in read_list(path) for entry in block)
    return all(
        isinstance(entry, dict) and "file" in entry and ("detections" in entry or "error" in entry) for entry in entries
    )


def _write_listing(path: Path, entries: list[dict[str, Any]], rest: Sequence[Path]) -> None:
    not_reached = [{"file": str(file), "error": "not processed: the tool was stopped before"} for file in rest]
    write_text(path, json_text(entries + not_reached, indent=1) + "\n")


def check_options(detector: BaseDetector, min_score: float | Sequence[float], tile: int | None, overlap: float) -> None:
    """Raises a UserError, before the work, if a least score or the tiles are out of range; logs the scale of tiles."""
    for score in [min_score] if isinstance(min_score, (int, float)) else min_score:
        if not 0 <= score <= 1:
            raise UserError(f"the least score to be drawn is {score}; scores lie in 0–1")
    if tile is not None:
        tile_windows(1, 1, tile, overlap)
        logger.info("%s", scale_of_tiles(detector, tile))


def as_dicts(found: ImageDetections) -> list[dict[str, Any]]:
    """The detections as they are listed, boxes in pixels of the image."""
    return [
        {"category_id": category, "category": name, "score": round(score, 6), "box": [round(side, 2) for side in box]}
        for category, name, score, box in zip(
            found.category_ids.tolist(), found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
