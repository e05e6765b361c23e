"""The lines of a YOLO label file → class numbers and boxes as fractions of the image.

A line is `class x y width height` (centre and size), or `class x1 y1 x2 y2 x3 y3 …`, a polygon, of which the box around
it is taken; both may stand in one file. With keypoints (`kpt_shape` in data.yaml) they follow the box. All numbers are
fractions of the image's width and height. Source: Ultralytics, "Object Detection Datasets Overview", "Instance
Segmentation Datasets Overview" and "Pose Estimation Datasets Overview".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from detection.common.encodings import as_utf8

CLASS_LIMIT = 10**15  # no class has so large a number; below it, numbers fit int64 and are exact in float64
_FAR = 2.0  # numbers beyond it are no fractions that reach over the image's edge, but pixels


@dataclass
class Lines:
    """What the lines of a file say. classes, boxes (four numbers each: centre and size, one after the other) and
    numbers (of the lines, from 1 on) of what was read; found: (kind of finding, number of the line, its text)."""

    classes: list[int] = field(default_factory=list)
    boxes: list[float] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    found: list[tuple[str, int, str]] = field(default_factory=list)


def parse_lines(data: bytes, names: Mapping[str, int], keypoint_numbers: int = 0) -> Lines:
    """The content of a file as `Lines`.

    names: class name → number, for lines that give the class by its name. keypoint_numbers: how many numbers of
    keypoints follow a box.

    >>> parse_lines(b"0 0.5 0.5 0.25 0.5\\n1 0 0 0.5 0 0.5 0.5", {}).boxes
    [0.5, 0.5, 0.25, 0.5, 0.25, 0.25, 0.5, 0.5]
    """
    lines = Lines()
    text = as_utf8(data)
    if text != data:
        lines.found.append(("label_encoding", 1, "byte order mark"))
    rows = [line.split() for line in text.splitlines()]
    if set(map(len, rows)) <= {0, 5}:  # the usual file
        try:
            values = [list(map(float, row[1:])) for row in rows if row]
            classes = [int(row[0]) for row in rows if row]
        except ValueError:
            pass
        else:
            near = all(max(value) <= _FAR and min(value) >= -_FAR for value in values)
            if near and min(classes, default=0) >= 0 and max(classes, default=0) < CLASS_LIMIT:
                lines.classes = classes
                lines.boxes = [number for value in values for number in value]
                lines.numbers = [i for i, row in enumerate(rows, start=1) if row]
                return lines
    for i, row in enumerate(rows, start=1):
        if row:
            _parse(row, i, names, keypoint_numbers, lines)
    return lines


def _parse(row: list[bytes], line: int, names: Mapping[str, int], keypoint_numbers: int, lines: Lines) -> None:
    text = b" ".join(row).decode("utf-8", "replace")
    found, first = _class_and_first(row, names)
    try:
        values = [float(value) for value in row[first:]]
    except ValueError:
        values = []
    kind = None
    if found is None or len(values) < 4 or not all(map(math.isfinite, values)):
        kind = "label_line_malformed"
    elif len(values) == 5:
        lines.found.append(("label_with_score", line, text))
        values = values[:4]
    elif keypoint_numbers and len(values) == 4 + keypoint_numbers:
        values = values[:4]
    elif len(values) > 4:
        kind = "label_line_malformed" if len(values) % 2 else "box_from_polygon"
    if kind != "label_line_malformed" and max(map(abs, values)) > _FAR:
        kind = "label_in_pixels"
    if kind is not None:
        lines.found.append((kind, line, text))
    if kind in (None, "box_from_polygon"):
        assert found is not None
        if first > 1 or not row[0].isdigit():
            lines.found += [("class_as_name", line, text)] if not _is_whole(row[0]) else []
        lines.classes.append(found)
        lines.boxes += _box_around(values) if kind else values
        lines.numbers.append(line)


def _class_and_first(row: list[bytes], names: Mapping[str, int]) -> tuple[int | None, int]:
    """(the class, None if the line names none; where the numbers after it begin)."""
    if _is_whole(row[0]):
        return int(float(row[0])), 1
    for end in range(1, len(row)):
        name = b" ".join(row[:end]).decode("utf-8", "replace")
        if name in names:
            return names[name], end
    return None, 1


def _is_whole(text: bytes) -> bool:
    """Whether a text is a number from 0 on without a fraction: 3, 3.0."""
    whole, _, rest = text.partition(b".")
    return whole.isdigit() and len(whole) < 16 and not rest.strip(b"0")


def _box_around(points: list[float]) -> list[float]:
    """x, y, x, y, … → centre and size of the box around the points."""
    x0, x1, y0, y1 = min(points[::2]), max(points[::2]), min(points[1::2]), max(points[1::2])
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]
