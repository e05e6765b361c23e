"""Files and folders of images → annotated images and one JSON file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from backbones.common.progress import with_progress
from detection.data.images import ImageError, read_image
from detection.detector import Detector, ImageDetections
from detection.report.drawing import draw_detections, save_image

logger = logging.getLogger(__name__)

LISTING = "detections.json"
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".ppm"}


@dataclass(frozen=True)
class Summary:
    """How many images were looked at, how many could not be read, and how many detections were drawn."""

    images: int
    unreadable: int
    detections: int


def predict(detector: Detector, paths: Sequence[Path], output: Path, *, min_score: float = 0.5) -> Summary:
    """Looks at every image; leaves `detections.json` and a copy of each with its detections drawn in `output`.

    An image that cannot be read is named in a warning and in the JSON; the others are not held up by it. Whatever ends
    the work early (Ctrl-C, a full disk), the JSON tells what was found until then, and names the images that were not
    looked at.

    Raises:
        UserError: min_score is not in 0–1; a path does not exist, or there is no image; the output cannot be written,
            or an image that is not this function's would be overwritten there.
    """
    if not 0 <= min_score <= 1:
        raise UserError(f"the least score to be drawn is {min_score}; scores lie in 0–1")
    files = find_images(paths, leave_out=output)
    names = _distinct_names(files)
    _refuse_to_overwrite(files, [output / name for name in names], output / LISTING)
    entries: list[dict[str, Any]] = []
    drawn = unreadable = 0
    try:
        for file, name in with_progress(zip(files, names, strict=True), len(files), "detecting"):
            try:
                image = read_image(file)
            except ImageError as error:
                logger.warning("%s", error)
                entries.append({"file": str(file), "error": str(error)})
                unreadable += 1
                continue
            found = detector(image)
            entries.append(
                {
                    "file": str(file),
                    "width": image.shape[1],
                    "height": image.shape[0],
                    "detections": _as_dicts(found),
                }
            )
            shown = found.above(min_score)
            drawn += len(shown)
            save_image(
                output / name,
                draw_detections(image, shown.boxes, shown.labels, detector.categories.names, shown.scores),
            )
    finally:
        if entries:  # else an earlier listing is worth more
            _write_listing(output / LISTING, entries, files[len(entries) :])
    earlier = {path.name for path in output.glob("*.jpg")}.difference(names)
    if earlier:
        logger.warning("%s: %d images there are of earlier calls, and not in %s", output, len(earlier), LISTING)
    return Summary(len(files), unreadable, drawn)


def find_images(paths: Iterable[Path], *, leave_out: Path | None = None) -> list[Path]:
    """The files named, and all images below the folders named, in order, each once.

    leave_out: a folder whose images do not count, if it lies within a folder named.

    Raises:
        UserError: a path does not exist, or no image is found.
    """
    found: dict[Path, None] = {}
    left_out = leave_out and leave_out.resolve()
    for path in paths:
        if path.is_dir():
            below = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
            if left_out and path.resolve() in left_out.parents:
                below = [p for p in below if left_out not in p.resolve().parents]
            found |= dict.fromkeys(below)
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"{path}: no such file or folder")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no images there (known endings: {' '.join(sorted(ENDINGS))})")
    return list(found)


def _distinct_names(files: Sequence[Path]) -> list[str]:
    """A name in the output folder for each image: its own, with a number where two images share one."""
    taken: set[str] = set()
    names = []
    for file in files:
        name, number = f"{file.stem}.jpg", 1
        while name.lower() in taken:
            number += 1
            name = f"{file.stem}_{number}.jpg"
        taken.add(name.lower())
        names.append(name)
    return names


def _refuse_to_overwrite(files: Sequence[Path], targets: Sequence[Path], listing: Path) -> None:
    """Drawings take the place of an earlier call's alone, whose listing lies beside them, and of no input."""
    inputs = {_identity(file) for file in files}
    for target in (*targets, listing):
        if not target.exists():
            continue
        if _identity(target) in inputs:
            raise UserError(f"{target}: is an image to look at, and would be overwritten; name another output")
        if not listing.exists():
            raise UserError(
                f"{target}: exists already, and no {listing.name} beside it says that it is a drawing; "
                "name another output, or move it away"
            )


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file: by links, and on disks that take capitals for small letters."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _write_listing(path: Path, entries: list[dict[str, Any]], rest: Sequence[Path]) -> None:
    if rest:
        logger.warning("stopped: %s tells of %d images; %d were not looked at", path, len(entries), len(rest))
    not_reached = [{"file": str(file), "error": "not looked at: the tool was stopped before"} for file in rest]
    with atomic_write(path) as temporary:
        text = json.dumps(entries + not_reached, indent=1, ensure_ascii=False) + "\n"
        # A name's bytes that are no UTF-8 become JSON's own escapes (\udcff), which os.fsencode turns back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _as_dicts(found: ImageDetections) -> list[dict[str, Any]]:
    return [
        {"category_id": category, "category": name, "score": round(score, 6), "box": [round(side, 2) for side in box]}
        for category, name, score, box in zip(
            found.category_ids.tolist(), found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
