"""Objects → findings about those that are well formed but implausible. They are used as they are.

Shapes: T annotations. Boxes are x, y, width, height as the label file states them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from detection.data.findings import EXAMPLES_KEPT, Example, Findings
from detection.data.repairs import Links, annotation_example
from detection.data.row_parts import parts_of
from detection.data.tables import Tables

LIMIT_OF_CLASS = 100  # detections of one class in an image that COCO's evaluation considers
_SMALL_IMAGE = 16  # pixels; in a smaller image, boxes of one pixel may be correct
_FEW = 5  # boxes; so few of them are not reported
_LEAST_SHARE, _LARGEST_SHARE = 0.1, 1.05  # of its box that an object's area covers


@dataclass(frozen=True)
class _Objects:
    """boxes float64 (T, 4); areas, crowds, image_rows and labels all (T,). sound bool (T,): those that count, which are
    finite and of a listed image and class. heights, widths: of the images (M,). name_of: row → the annotation as an
    example."""

    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    image_rows: np.ndarray
    labels: np.ndarray
    sound: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    name_of: Callable[[int], Example]

    def named(self, rows: np.ndarray) -> Iterator[Example]:
        """The names of the rows of a mask."""
        return map(self.name_of, np.flatnonzero(rows).tolist())


def find_implausible(
    tables: Tables,
    links: Links,
    sizes: tuple[np.ndarray, np.ndarray],
    class_names: Sequence[str],
    findings: Findings,
    *,
    closely: bool,
) -> None:
    """Adds implausible objects and classes to the findings.

    sizes: heights and widths of the images. closely: also report what is often correct but worth checking.
    """
    sound = links.kept.copy()
    for part in parts_of(len(sound)):
        sound[part] &= np.isfinite(tables.boxes[part]).all(axis=1)
    objects = _Objects(
        boxes=tables.boxes,
        areas=tables.areas,
        crowds=tables.crowds,
        image_rows=links.image_rows,
        labels=links.labels,
        sound=sound,
        heights=sizes[0],
        widths=sizes[1],
        name_of=lambda row: annotation_example(tables, row),
    )
    _find_misread_boxes(objects, findings)
    _find_too_many_crowds(objects, findings)
    if closely:
        _find_unlikely_areas(objects, findings)
        _find_classes_without_objects(objects, class_names, findings)
        if findings.purpose == "evaluation":
            _find_crowded_images(objects, class_names, findings)


def _find_misread_boxes(objects: _Objects, findings: Findings) -> None:
    """Adds boxes that seem to be given as fractions of the image, or by their corners."""
    tiny: list[int] = []  # the first rows of those found, and below the numbers of all
    over: list[int] = []
    tiny_count = fitting_count = over_count = 0
    sizes = np.stack([objects.widths, objects.heights], axis=1)
    for part in parts_of(len(objects.boxes)):
        rows = part.start + np.flatnonzero(objects.sound[part])
        boxes, limits = objects.boxes[rows], sizes[objects.image_rows[rows]]
        with np.errstate(over="ignore"):
            ends = boxes[:, :2] + boxes[:, 2:]
        is_tiny = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] >= -0.01).all(axis=1) & (ends <= 1.01).all(axis=1)
        is_tiny &= (limits >= _SMALL_IMAGE).all(axis=1)
        is_over = (ends > limits + 1).any(axis=1)
        as_corners = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= limits + 1).all(axis=1)
        tiny_count, over_count = tiny_count + int(is_tiny.sum()), over_count + int(is_over.sum())
        fitting_count += int(as_corners.sum())
        tiny += rows[is_tiny][: EXAMPLES_KEPT - len(tiny)].tolist()
        over += rows[is_over][: EXAMPLES_KEPT - len(over)].tolist()
    count = int(objects.sound.sum())
    if 2 * tiny_count > count:
        findings.add("boxes_as_fractions", tiny_count, map(objects.name_of, tiny))
    if count >= _FEW and fitting_count > 0.99 * count and over_count > 0.2 * count:
        findings.add("boxes_as_corners", over_count, map(objects.name_of, over))


def _find_too_many_crowds(objects: _Objects, findings: Findings) -> None:
    """Adds the crowd regions if most objects are crowd regions."""
    crowds = objects.crowds & objects.sound
    if 2 * crowds.sum() > objects.sound.sum():
        findings.add("crowds_mostly", int(crowds.sum()), objects.named(crowds))


def _find_unlikely_areas(objects: _Objects, findings: Findings) -> None:
    """Adds the objects whose area is far from their box's, if they are at least a fifth of all. (Thin diagonal objects
    cover little of their boxes.)
    """
    width, height = objects.boxes[:, 2:].T
    with np.errstate(over="ignore", invalid="ignore"):
        far = objects.areas < _LEAST_SHARE * width * height
        far |= objects.areas > _LARGEST_SHARE * (width + 1) * (height + 1)  # a box may be counted in whole pixels
    far &= (width > 0) & (height > 0) & ~objects.crowds & objects.sound
    if 5 * far.sum() >= max(1, objects.sound.sum()):
        findings.add("areas_far", int(far.sum()), objects.named(far))


def _find_classes_without_objects(objects: _Objects, class_names: Sequence[str], findings: Findings) -> None:
    counts = np.bincount(objects.labels[objects.sound], minlength=len(class_names) + 1)[1:]
    empty = np.flatnonzero(counts == 0).tolist()
    findings.add("class_without_object", len(empty), (class_names[position] for position in empty))


def _find_crowded_images(objects: _Objects, class_names: Sequence[str], findings: Findings) -> None:
    """Adds images with more objects of a class than the detections that COCO's evaluation considers."""
    targets = np.flatnonzero(objects.sound & ~objects.crowds)
    cells = objects.image_rows[targets].astype(np.int64) * (len(class_names) + 1) + objects.labels[targets]
    _, first, counts = np.unique(cells, return_index=True, return_counts=True)
    many = counts > LIMIT_OF_CLASS
    findings.add(
        "class_crowded",
        int(many.sum()),
        (
            Example(
                f"{count} of {class_names[int(objects.labels[row]) - 1]}: {objects.name_of(row)} and others",
                objects.name_of(row).image,
            )
            for row, count in zip(targets[first[many]].tolist(), counts[many].tolist(), strict=True)
        ),
    )
