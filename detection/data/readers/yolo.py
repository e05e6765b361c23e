"""YOLO labels, a text file for each image → tables. Where the files are: `detection.data.readers.yolo_layout`.

An image without a label file, or with an empty one, has no objects (Ultralytics, "Object Detection Datasets Overview").
Image sizes, which the labels do not have, come from the images' headers. Images are numbered from 1 on in the order of
their names, and a class's id is its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbones.common.files import require_plain_file
from detection.data.findings import Example, Findings
from detection.data.images import image_sizes
from detection.data.readers.source import Format
from detection.data.readers.yolo_lines import Lines, parse_lines
from detection.data.tables import LARGEST_AREA, Tables

FILE_LIMIT = 1 << 26  # bytes of a label file


@dataclass(frozen=True)
class YoloSource:
    """A split in YOLO format.

    labels: the data.yaml, or the folder of the labels. images: what the image names are relative to. files: (image
    name, path of its label file or "") in the order of the names. classes: names by number; None: no file names
    them, and they are named by their numbers. other_numbers: the class numbers in the other splits' labels if `classes`
    is None. keypoint_numbers: see `parse_lines`. found: findings of the layout, as (kind, count, examples). places: see
    `Source`.
    """

    labels: Path
    images: Path
    files: tuple[tuple[str, str], ...]
    classes: Mapping[int, str] | None
    other_numbers: frozenset[int] = frozenset()
    keypoint_numbers: int = 0
    found: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    places: tuple[Path, ...] = ()
    format: Format = field(default="yolo", init=False)
    open_classes: bool = field(default=False, init=False)

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """See `Source.read`."""
        for kind, count, examples in self.found:
            findings.add(kind, count, examples)
        files = sorted(self.files)
        contents = read_label_files([label for _, label in files])
        numbers = {} if self.classes is None else {name: number for number, name in self.classes.items()}
        parsed = [parse_lines(data or b"", numbers, self.keypoint_numbers) for data in contents]
        for (name, label), data, lines in zip(files, contents, parsed, strict=True):
            for kind, line, text in lines.found:
                findings.add(kind, 1, [f"{label}:{line}: {text[:80]}"])
            if not label:
                findings.add("label_file_missing", 1, [name])
            elif data is None:
                findings.add("label_file_malformed", 1, [label])
        return self._tables(files, parsed, findings, of_files)

    def _tables(self, files: list[tuple[str, str]], parsed: list[Lines], findings: Findings, of_files: bool) -> Tables:
        counts = [len(lines.classes) for lines in parsed]
        of_image = np.repeat(np.arange(len(files)), counts)
        category_of = np.array([number for lines in parsed for number in lines.classes], dtype=np.int64)
        line_of = np.array([number for lines in parsed for number in lines.numbers], dtype=np.int64)
        boxes = np.array([number for lines in parsed for number in lines.boxes], dtype=np.float64).reshape(-1, 4)

        def place_of(row: int) -> str:
            return f"{files[of_image[row]][1]}:{line_of[row]}"

        classes = self._class_names(category_of, findings)
        unlisted = ~np.isin(category_of, np.fromiter(classes, dtype=np.int64, count=len(classes)))
        found = np.flatnonzero(unlisted).tolist()
        findings.add(
            "class_beyond_names",
            len(found),
            (
                Example(f"{place_of(row)}: class {category_of[row]} of {len(classes)} names", files[of_image[row]][0])
                for row in found
            ),
        )
        sizes = (
            image_sizes([self.images / name for name, _ in files])
            if of_files
            else np.ones((len(files), 3), dtype=np.int64)
        )
        boxes[:, :2] -= boxes[:, 2:] / 2
        boxes *= np.tile(sizes[of_image, 1::-1], 2)
        kept = np.flatnonzero(~unlisted)
        return Tables(
            image_ids=np.arange(1, len(files) + 1),
            heights=sizes[:, 0],
            widths=sizes[:, 1],
            names=[name for name, _ in files],
            annotation_ids=np.arange(1, len(kept) + 1),
            image_of=of_image[kept] + 1,
            category_of=category_of[kept],
            boxes=boxes[kept],
            crowds=np.zeros(len(kept), dtype=bool),
            areas=np.minimum(np.maximum(boxes[kept, 2], 0) * np.maximum(boxes[kept, 3], 0), LARGEST_AREA),
            categories=sorted(classes.items()),
            place_of=lambda row: place_of(int(kept[row])),
        )

    def _class_names(self, category_of: np.ndarray, findings: Findings) -> dict[int, str]:
        if self.classes is not None:
            return dict(self.classes)
        numbers = sorted(set(category_of.tolist()) | self.other_numbers)
        findings.add("classes_unnamed", len(numbers), map(str, numbers))
        return {number: str(number) for number in numbers}


def read_label_files(paths: list[str]) -> list[bytes | None]:
    """The content of each file, several read at once: b"" for the path "", None for one that cannot be read."""

    def content(path: str) -> bytes | None:
        if not path:
            return b""
        try:
            if require_plain_file(path).st_size > FILE_LIMIT:
                return None
            return Path(path).read_bytes()
        except Exception:  # reported with its name by the caller
            return None

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(content, paths))
