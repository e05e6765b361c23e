"""Splits → a YOLO data set: `data.yaml`, `images/<split>/` and `labels/<split>/`, a text for each image.

YOLO's boxes are fractions of the upright image, and state no size of it: boxes that were made on an image as stored,
which EXIF turns, are turned with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from backbones.common.errors import UserError
from backbones.common.text import printable
from detection.data.images import image_sizes
from detection.data.orientation import is_as_stored, turn_boxes
from detection.data.writers.objects import Split, short_number

_DIGITS = 10  # of a fraction: a thousandth of a pixel in an image of 10^6 pixels


def write_labels(folder: Path, splits: list[Split], categories: Mapping[str, int]) -> list[str]:
    """See `Writer`. Classes are numbered from 0 on in their order; crowd regions, which YOLO does not have, are left
    out. An image without objects gets an empty file.

    Raises:
        UserError: an image has another size than its labels state.
    """
    left_out = 0
    for split in splits:
        labels = folder / "labels" / split.name
        labels.mkdir(parents=True)
        found = image_sizes([split.index.path(i) for i in range(len(split.files))])
        for i, name in enumerate(split.files):
            rows = split.objects.of_image(i)
            boxes, height, width = _upright(split, i, found[i])
            lines = []
            for box, label, crowd in zip(
                boxes.tolist(),
                split.objects.labels[rows].tolist(),
                split.objects.crowds[rows].tolist(),
                strict=True,
            ):
                left_out += crowd
                x, y, w, h = box
                numbers = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                if not crowd:
                    lines.append(" ".join([str(label - 1), *(short_number(round(one, _DIGITS)) for one in numbers)]))
            text = "".join(f"{line}\n" for line in lines)
            (labels / f"{PurePosixPath(name).stem}.txt").write_text(text, encoding="utf-8", newline="\n")
    content = {split.name: image_folder(split.name) for split in splits}
    for key, other in (("train", "trainval"), ("val", "test")):  # Ultralytics asks for both, and knows no `trainval`
        if other in content:
            content.setdefault(key, content[other])
    names = dict(enumerate(categories))
    text = yaml.safe_dump({**content, "names": names}, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return [f"{left_out} crowd regions or difficult objects, which YOLO does not have"] if left_out else []


def _upright(split: Split, i: int, found: np.ndarray) -> tuple[np.ndarray, int, int]:
    """(boxes (G, 4) of image i on the upright image; its height; its width). found: see `image_sizes`."""
    boxes, stated = split.objects.boxes[split.objects.of_image(i)], split.index.size(i)
    height, width, orientation = found.tolist()
    if orientation == 0 or stated == (height, width):  # 0: no reader can turn what cannot be read
        return boxes, *stated
    if is_as_stored(stated, (height, width), orientation):
        return turn_boxes(boxes, orientation, (height, width)), height, width
    raise UserError(
        f"{printable(str(split.index.path(i)))}: the image is {width}×{height} pixels (width × height), its labels say "
        f"{stated[1]}×{stated[0]}, and YOLO's boxes are fractions of that; correct the labels, or give the image that "
        "they were made on (tools/check_dataset.py names all such images)"
    )


def image_folder(split: str) -> str:
    """Where the images of a split lie."""
    return f"images/{split}"
