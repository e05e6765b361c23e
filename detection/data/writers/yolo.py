"""Splits → a YOLO data set: `data.yaml`, `images/<split>/` and `labels/<split>/`, a text for each image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import yaml

from detection.data.writers.objects import Split, short_number

_DIGITS = 10  # of a fraction: a thousandth of a pixel in an image of 10^6 pixels


def write_labels(folder: Path, splits: list[Split], categories: Mapping[str, int]) -> list[str]:
    """See `Writer`. Classes are numbered from 0 on in their order; crowd regions, which YOLO does not have, are left
    out. An image without objects gets an empty file."""
    left_out = 0
    for split in splits:
        labels = folder / "labels" / split.name
        labels.mkdir(parents=True)
        for i, name in enumerate(split.files):
            rows = split.objects.of_image(i)
            height, width = split.index.size(i)
            lines = []
            for box, label, crowd in zip(
                split.objects.boxes[rows].tolist(),
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
    if "test" in content:
        content.setdefault("val", content["test"])  # Ultralytics asks for a `val`
    names = dict(enumerate(categories))
    text = yaml.safe_dump({**content, "names": names}, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return [f"{left_out} crowd regions or difficult objects, which YOLO does not have"] if left_out else []


def image_folder(split: str) -> str:
    """Where the images of a split lie."""
    return f"images/{split}"
