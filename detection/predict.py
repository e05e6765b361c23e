"""Files and folders of pictures → annotated pictures and one JSON file."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detection.data.pictures import PictureError, read_picture
from detection.detector import Detector, PictureDetections
from detection.drawing import draw_detections, save_picture
from detection.errors import UserError
from detection.files import atomic_write
from detection.progress import with_progress

logger = logging.getLogger(__name__)

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".ppm"}


@dataclass(frozen=True)
class Summary:
    """How many pictures were looked at, how many could not be read, and how many detections were drawn."""

    pictures: int
    unreadable: int
    detections: int


def predict(detector: Detector, paths: Sequence[Path], output: Path, *, min_score: float = 0.5) -> Summary:
    """Looks at every picture; leaves `detections.json` and a copy of each with its detections drawn in `output`.

    A picture that cannot be read is named in a warning and in the JSON; the others are not held up by it.

    Raises:
        UserError: a path does not exist, or there is no picture; the output cannot be written.
    """
    files = find_pictures(paths)
    names = _distinct_names(files)
    entries: list[dict[str, Any]] = []
    drawn = unreadable = 0
    for file, name in with_progress(zip(files, names, strict=True), len(files), "pictures"):
        try:
            picture = read_picture(file)
        except PictureError as error:
            logger.warning("%s", error)
            entries.append({"file": str(file), "error": str(error)})
            unreadable += 1
            continue
        found = detector(picture)
        entries.append(
            {
                "file": str(file),
                "width": picture.shape[1],
                "height": picture.shape[0],
                "detections": _as_dicts(found),
            }
        )
        shown = found.above(min_score)
        drawn += len(shown)
        save_picture(
            output / name,
            draw_detections(picture, shown.boxes, shown.labels, detector.categories.names, shown.scores),
        )
    with atomic_write(output / "detections.json") as temporary:
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Summary(len(files), unreadable, drawn)


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files named, and all pictures below the folders named, in order, each once.

    Raises:
        UserError: a path does not exist, or no picture is found.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found |= dict.fromkeys(sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()))
        elif path.exists():
            found[path] = None
        else:
            raise UserError(f"{path}: no such file or folder")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no pictures there (known endings: {' '.join(sorted(ENDINGS))})")
    return list(found)


def _distinct_names(files: Sequence[Path]) -> list[str]:
    """A name in the output folder for each picture: its own, with a number where two pictures share one."""
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


def _as_dicts(found: PictureDetections) -> list[dict[str, Any]]:
    return [
        {"category_id": category, "category": name, "score": round(score, 6), "box": [round(side, 2) for side in box]}
        for category, name, score, box in zip(
            found.category_ids.tolist(), found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
