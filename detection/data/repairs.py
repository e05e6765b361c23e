"""Tables of a label file → the arrays of an index: ids resolved to rows, boxes as corners, defects counted.

Shapes: M images, T annotations, K categories. Each function adds the defects it finds to `findings`; whether the file
is refused is decided after all calls.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.common.seeds import GOLDEN, mix64
from detection.data.findings import EXAMPLES_KEPT, Example, Findings
from detection.data.row_parts import ROWS, parts_of
from detection.data.tables import MISSING, Tables

ROUNDING = 0.011  # pixels; COCO writes two decimals, so x + width may exceed the edge by that much in a correct file


@dataclass(frozen=True)
class Links:
    """The image and the label of each annotation.

    image_rows (T,): the row of each one's image, −1 if it is not listed. labels (T,): 0 if its category is not listed.
    Both are int16, int32 or int64. kept bool (T,): both are listed.
    """

    image_rows: np.ndarray
    labels: np.ndarray
    kept: np.ndarray


def distinct_images(tables: Tables, findings: Findings) -> np.ndarray | slice:
    """Rows of the images by ascending id, each once; repeated identical entries are skipped. All of them, if they stand
    in the file like that."""
    if (tables.image_ids[1:] > tables.image_ids[:-1]).all():
        return slice(None)
    ids, first = np.unique(tables.image_ids, return_index=True)
    first_of = first[np.searchsorted(ids, tables.image_ids)]
    for row in np.flatnonzero((first_of != np.arange(len(first_of))) & (tables.image_ids != MISSING)).tolist():
        other = first_of[row]
        same = tables.names[row] == tables.names[other]
        same &= bool(tables.heights[row] == tables.heights[other] and tables.widths[row] == tables.widths[other])
        example = f"id {tables.image_ids[row]}: {tables.names[other]}" + ("" if same else f" and {tables.names[row]}")
        findings.add("image_twice" if same else "image_id_twice", 1, [example])
    return first


def count_shared_names(names: Sequence[str], findings: Findings) -> None:
    """Counts the file names that several image ids share."""
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))  # a set would take much memory
    if (hashes[1:] == hashes[:-1]).any():
        shared = [name for name, count in Counter(names).items() if count > 1 and name != "?"]
        findings.add("image_name_twice", len(shared), shared)


def categories_of(tables: Tables, findings: Findings) -> tuple[np.ndarray, list[str]]:
    """(ids ascending, their names); repeated identical entries are skipped."""
    counts = Counter(category for category in tables.categories if category[0] != MISSING)
    repeated = [f"category {number}: {name}" for (number, name), count in counts.items() if count > 1]
    findings.add("category_twice", sum(counts.values()) - len(counts), repeated)
    ordered = sorted(counts)
    for (number, name), (following, other) in itertools.pairwise(ordered):
        if number == following:
            findings.add("category_id_twice", 1, [f"category {number}: {name} and {other}"])
    names = [name for _, name in ordered]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    findings.add("category_name_twice", len(twice), twice)
    return np.array([number for number, _ in ordered], dtype=np.int64), names


def link(
    tables: Tables, image_ids: np.ndarray, category_ids: np.ndarray, findings: Findings, *, in_place: bool = False
) -> Links:
    """Finds each annotation's image among `image_ids` and its label among `category_ids`.

    in_place: whether the result may take the memory of the tables' columns, which are empty afterwards.
    """
    image_rows, stray, stray_ids = _find(image_ids, tables.image_of, in_place)
    labels, unknown, unknown_ids = _find(category_ids, tables.category_of, in_place)
    labels += 1
    if in_place:
        tables.image_of = tables.category_of = np.zeros(0, dtype=np.int64)
        tables.image_id_of = lambda row: int(
            image_ids[image_rows[row]] if image_rows[row] >= 0 else stray_ids[np.searchsorted(stray, row)]
        )
    named = stray[stray_ids != MISSING]
    if len(named) and len(named) == len(image_rows):
        findings.add("all_without_image", 1)
    findings.add("annotation_without_image", len(named), _examples(tables, named))
    counted = (unknown_ids != MISSING) & (image_rows[unknown] >= 0)
    examples = (
        annotation_example(tables, row, f"category {number}: ")
        for row, number in zip(unknown[counted].tolist(), unknown_ids[counted].tolist(), strict=True)
    )
    findings.add("category_unknown", int(counted.sum()), examples)
    kept = image_rows >= 0
    kept &= labels > 0
    return Links(image_rows, labels, kept)


def _find(known: np.ndarray, wanted: np.ndarray, in_place: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(position of each wanted id in `known` (distinct, any order), −1 if it is not there, (n,); the rows of those that
    are not there; their ids).

    in_place: whether the positions may overwrite `wanted`.
    """
    kind = np.dtype(np.int16 if len(known) < np.iinfo(np.int16).max else np.int32)  # holds a position, and 1 after it
    found = wanted if in_place and wanted.itemsize >= kind.itemsize else np.empty(len(wanted), dtype=kind)
    order = np.argsort(known)
    low, high = (int(known[order[0]]), int(known[order[-1]])) if len(known) else (0, -1)
    row_of = None
    if high - low < 8 * len(known):  # ids as they usually are: a table of them is many times faster than a search
        row_of = np.full(high - low + 1, -1, dtype=np.int32)
        row_of[known - low] = np.arange(len(known), dtype=np.int32)
    nothing = np.zeros(0, dtype=np.int64)
    absent, absent_ids = [nothing], [nothing]
    for part in parts_of(len(wanted)):
        own = wanted[part].astype(np.int64)
        if row_of is None:
            position = order[np.searchsorted(known, own, sorter=order).clip(max=len(known) - 1)]
            position = np.where(known[position] == own, position, -1)
        elif len(known):
            listed = (own >= low) & (own <= high)
            position = np.where(listed, row_of[np.where(listed, own, low) - low], -1)
        else:
            position = np.full(len(own), -1)
        rows = np.flatnonzero(position < 0)
        absent.append(part.start + rows)
        absent_ids.append(own[rows])
        found[part] = position
    return found, np.concatenate(absent), np.concatenate(absent_ids)


def corner_boxes(
    tables: Tables,
    links: Links,
    sizes: tuple[np.ndarray, np.ndarray] | None,
    findings: Findings,
    *,
    in_place: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(boxes float32 (T, 4), corners clipped to their images; usable bool (T,): those with an area after clipping).

    sizes: the images' heights and widths; None if unknown: then no box is clipped. in_place: whether the result may
    take the memory of `tables.boxes`, which are empty afterwards.
    """
    stated = tables.boxes
    in_place = in_place and stated.flags.owndata and stated.flags.c_contiguous
    boxes = _first_half(stated) if in_place else np.empty((len(stated), 4), dtype=np.float32)
    usable = links.kept.copy()
    counts = [0] * len(_BOX_DEFECTS)
    examples: list[list[Example]] = [[] for _ in _BOX_DEFECTS]
    limits = None
    if sizes is not None:  # row −1, no image, has no size
        limits = np.zeros((len(sizes[0]) + 1, 2), dtype=np.int32)
        limits[:-1, 0], limits[:-1, 1] = sizes[1], sizes[0]
    for part in parts_of(len(boxes)):
        own = None if limits is None else limits[links.image_rows[part]]
        corners, defects = _corners_and_defects(stated[part], own)
        defects[~links.kept[part]] = 0
        for number, kind in enumerate(_BOX_DEFECTS):
            rows = np.flatnonzero(defects == number + 1)
            counts[number] += len(rows)
            if len(examples[number]) < EXAMPLES_KEPT:
                examples[number] += _examples(tables, part.start + rows)
            if kind != "box_overhanging":
                usable[part.start + rows] = False
        boxes[part] = corners  # overwrites, in place, rows that have been used
    for kind, count, own_examples in zip(_BOX_DEFECTS, counts, examples, strict=True):
        findings.add(kind, count, own_examples)
    if in_place:
        del boxes
        tables.boxes = np.zeros((0, 4))
        stated.resize((-(-len(usable) // 2), 4), refcheck=False)
        boxes = _first_half(stated, len(usable))
    return boxes, usable


def _first_half(stated: np.ndarray, rows: int | None = None) -> np.ndarray:
    """The beginning of the memory of float64 boxes (T, 4) as float32 boxes, T or `rows` of them."""
    rows = len(stated) if rows is None else rows
    return stated.reshape(-1).view(np.float32)[: 4 * rows].reshape(rows, 4)


# Each annotation is counted as the first kind that applies. The second "box_zero_size" is too thin for float32.
_BOX_DEFECTS = (
    "box_not_finite",
    "box_negative_size",
    "box_zero_size",
    "box_outside",
    "box_zero_size",
    "box_overhanging",
)


def _corners_and_defects(stated: np.ndarray, limits: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) as x, y, width, height, and the (width, height) of their images (n, 2) or None → (corners float32
    (n, 4), clipped; 1 + the number of each one's defect in `_BOX_DEFECTS`, 0 for none)."""
    x, y, width, height = stated.T
    nowhere = np.zeros(len(stated), dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.stack([x, y, x + width, y + height], axis=1)
        beyond, over = nowhere, nowhere
        if limits is not None:
            beyond = np.logical_or.reduce([*(corners[:, :2] >= limits).T, *(corners[:, 2:] <= 0).T])
            clipped = np.clip(corners, 0, np.tile(limits, 2))
            over = np.logical_or.reduce(np.abs(clipped - corners) > ROUNDING, axis=1)
            corners = clipped
        boxes = corners.astype(np.float32)
        kinds = [
            ~np.isfinite(stated).all(axis=1),
            (width < 0) | (height < 0),
            (width == 0) | (height == 0),
            beyond,
            (boxes[:, 2:] <= boxes[:, :2]).any(axis=1),
            over,
        ]
    return boxes, np.select(kinds, range(1, len(kinds) + 1), default=0)


def annotation_ids_of(tables: Tables, findings: Findings) -> np.ndarray:
    """The ids (T,), absent ones numbered after the last."""
    ids = tables.annotation_ids
    zero = ids == 0
    findings.add("annotation_id_zero", int(zero.sum()), _examples(tables, np.flatnonzero(zero)))
    if not (ids[1:] > ids[:-1]).all():  # they ascend in most files
        ordered = np.sort(ids)
        again = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != MISSING)]
        examples = (f"annotation {number}" for number, _ in itertools.groupby(again.tolist()))
        findings.add("annotation_id_twice", len(again), examples)
    absent = np.flatnonzero(ids == MISSING)
    if not len(absent):
        return ids
    last = max(0, int(ids.max(initial=0)))
    if last > np.iinfo(np.int64).max - len(absent):  # no free numbers after it
        last = 0
    filled = ids.copy()
    filled[absent] = last + 1 + np.arange(len(absent))
    return filled


def count_repeated_objects(content: dict[str, np.ndarray], tables: Tables, findings: Findings) -> None:
    """Counts objects equal to another of the same image in label, box and crowd flag."""
    offsets = content["offsets"]
    found, first = [np.zeros(0, dtype=np.int64)], 0
    while first < len(offsets) - 1:  # whole images, about ROWS objects of them at a time
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + ROWS, side="right")) - 1)
        found.append(_repeated_rows(content, first, last))
        first = last
    rows = np.concatenate(found)

    def example_of(row: int) -> Example:
        number = content["annotation_ids"][row]
        if tables.place_of is not None:  # such tables are numbered in their order
            return annotation_example(tables, int(np.searchsorted(tables.annotation_ids, number)))
        image_id = content["image_ids"][np.searchsorted(offsets, row, side="right") - 1]
        x0, y0, x1, y1 = content["boxes"][row].tolist()
        name = _image_name(tables, image_id)
        return Example(f"annotation {number} of image {image_id}", name, (x0, y0, x1 - x0, y1 - y0))

    findings.add("object_twice", len(rows), map(example_of, rows.tolist()))


def _repeated_rows(content: dict[str, np.ndarray], first: int, last: int) -> np.ndarray:
    """The rows of the objects of the images first ≤ i < last that equal an earlier one of their image, ascending."""
    offsets = content["offsets"][first : last + 1]
    part = slice(int(offsets[0]), int(offsets[-1]))
    images = np.repeat(np.arange(first, last), np.diff(offsets))
    columns = [
        images,
        content["labels"][part],
        content["crowds"][part],
        *content["boxes"][part].T.copy().view(np.int32),
    ]
    mixed = np.zeros(len(images), dtype=np.int64)
    for column in columns:
        mixed = mix64((mixed ^ column.astype(np.int64)) + GOLDEN)
    order = np.argsort(mixed, kind="stable")
    equal = np.ones(max(0, len(order) - 1), dtype=bool)
    for column in columns:
        equal &= column[order[1:]] == column[order[:-1]]
    return part.start + np.sort(order[1:][equal])


def annotation_name(tables: Tables, row: int) -> str:
    """An annotation's name in messages."""
    if tables.place_of is not None:
        return tables.place_of(row)
    number = tables.annotation_ids[row]
    return f"annotation {'without id' if number == MISSING else number} of image {tables.image_id(row)}"


def annotation_example(tables: Tables, row: int, before: str = "") -> Example:
    """An annotation as an example, with its image and its box; `before` stands before its name."""
    image = _image_name(tables, tables.image_id(row))
    return Example(before + annotation_name(tables, row), image, tables.boxes[row].tolist())


def _image_name(tables: Tables, image_id: int) -> str | None:
    rows = np.flatnonzero(tables.image_ids == image_id)
    return tables.names[rows[0]] if len(rows) else None


def _examples(tables: Tables, rows: np.ndarray) -> list[Example]:
    return [annotation_example(tables, row) for row in rows[:EXAMPLES_KEPT].tolist()]
