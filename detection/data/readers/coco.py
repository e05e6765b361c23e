"""A COCO annotation file → tables of its images, annotations and categories; repairs are counted.

Only this module depends on the format. Outlines are skipped; where an object has an outline and no box, the box is
computed from the outline in a second pass over the file. Single entries are checked here (is the id a whole number,
does the box have four numbers?); relations between entries are checked in `detection.data.repairs`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backbones.common.errors import UserError
from detection.common.json_stream import Repeated, read_members
from detection.common.label_kinds import start_of, what_labels_are
from detection.common.shortened import short
from detection.data.findings import Findings
from detection.data.foreign_names import ImageFiles, resolve_names
from detection.data.growing_columns import GrowingColumns
from detection.data.readers import coco_columns as columns
from detection.data.readers.coco_outlines import box_of_outline, has_outline
from detection.data.readers.source import Format
from detection.data.tables import LARGEST_AREA, Tables

Content = Path | dict[str, Any]  # a file, or what one holds


def read_tables(source: Path | Mapping[str, Any], findings: Findings, *, of_files: bool = True) -> Tables:
    """Reads a COCO annotation file, or the dict that such a file holds, adding to `findings`. Entries of a refused kind
    are replaced by placeholders.

    of_files: whether the image files will be used. If not, an image needs no name and no size, and neither is checked.

    Raises:
        UserError: the file cannot be read or is not a JSON object; `images`, `annotations` or `categories` is no list.
    """
    content: Content = source if isinstance(source, Path) else _plain(source)
    if isinstance(content, Path):
        kind = what_labels_are(start_of(content))
        if kind and not kind.startswith("a COCO file"):
            raise UserError(f"{content}: is no COCO annotation file, but {kind}")
    names: list[str] = []
    images, annotations = GrowingColumns(), GrowingColumns(narrow=True)
    images.add(_images([], names, findings))
    annotations.add(_annotations([], findings))
    categories: list[tuple[int, str]] = []
    parents: set[str] = set()
    boxless: set[int] = set()
    count, listed = 0, False
    with _collector_paused():
        for member, block in _blocks(
            content, ("images", "annotations", "categories"), "segmentation", findings, plain=columns.plain_annotations
        ):
            if member == "images":
                images.add(_images(block, names, findings if of_files else Findings(), findings))
            elif isinstance(block, tuple):
                annotations.add(block)
                count, listed = count + len(block[0]), True
            elif member == "annotations":
                own = _boxless(block)
                annotations.add(_annotations(block, findings, own))
                boxless.update(count + row for row in own)
                count, listed = count + len(block), True
            else:
                categories.extend(_categories(block, findings))
                parents.update(str(entry.get("supercategory")) for entry in block)
    findings.add("images_missing", int(not names))
    findings.add("categories_missing", int(not categories))
    findings.add("annotations_missing", int(not listed))
    image_ids, heights, widths = images.finish()
    ids, image_of, category_of, boxes, crowds, areas = annotations.finish()
    categories = _without_placeholder(categories, parents, category_of, findings)
    if boxless:
        _fill_from_outlines(content, boxless, boxes, findings)
    _fill_areas(areas, boxes)
    return Tables(image_ids, heights, widths, names, ids, image_of, category_of, boxes, crowds, areas, categories)


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as it would be read from a file: tuples become lists, NumPy's numbers floats."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(content)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"the annotations cannot be written as JSON ({error}): use plain numbers and lists") from None
    return plain


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Pauses the garbage collector, which many short-lived dicts would trigger to traverse all objects repeatedly."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _blocks(
    content: Content,
    wanted: Iterable[str],
    outlines: str | None,
    findings: Findings,
    plain: Callable[[str], tuple[np.ndarray, ...] | None] | None = None,
) -> Iterator[tuple[str, Any]]:
    """The wanted lists, block by block; entries that are not objects are left out and added to the findings.

    plain: the text of a block of annotations in a file → its columns, which take the block's place, or None.
    """
    repeated: Repeated = []
    shortcuts = {"annotations": plain} if plain else None
    members = read_members(content, outlines, repeated, shortcuts) if isinstance(content, Path) else content.items()
    for member, block in members:
        doubtful, repeated[:] = list(repeated), []
        if member not in wanted:
            continue
        if isinstance(block, tuple):
            yield member, block
            continue
        if not isinstance(block, list):
            place = content if isinstance(content, Path) else "the annotations"
            raise UserError(f"{place}: {member!r} is not a list")
        objects = block
        if set(map(type, block)) - {dict}:
            objects = [entry for entry in block if type(entry) is dict]
            strangers = [f"{short(entry)} in {member!r}" for entry in block if type(entry) is not dict]
            findings.add("entry_not_object", len(strangers), strangers)
        examples = (f"{key!r} of the entry of {member!r} with id {short(entry.get('id'))}" for entry, key in doubtful)
        findings.add("key_twice", len(doubtful), examples)
        yield member, objects


def _images(
    block: list[dict[str, Any]], names: list[str], of_files: Findings, findings: Findings | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, heights, widths) of a block; the file names are added to `names`.

    of_files: receives the findings about names and sizes, and all others if `findings` is None.
    """

    def name_of(row: int) -> str:
        return f"image {short(block[row].get('id'))}"

    def example(row: int, name: Any, shown: Callable[[Any], str]) -> Iterator[str]:  # made only if it is kept
        yield f"{name_of(row)}: {shown(name)}"

    ids = columns.ids([entry.get("id") for entry in block], name_of, findings or of_files, "image_id_malformed")
    for row, entry in enumerate(block):
        name: Any = entry.get("file_name")
        if name is None and type(url := entry.get("coco_url")) is str:  # LVIS
            name = "/".join(url.split("/")[-2:])
            of_files.add("image_name_from_url", 1, example(row, name, str))
        if not _is_file_name(name):
            of_files.add("image_name_malformed", 1, example(row, name, short))
            name = "?"
        names.append(name)
    heights, widths = (
        columns.sides([entry.get(side) for entry in block], name_of, of_files) for side in ("height", "width")
    )
    return ids, heights, widths


def _is_file_name(name: Any) -> bool:
    try:
        return type(name) is str and name != "" and b"\0" not in name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _annotation_name(entry: dict[str, Any]) -> str:
    return f"annotation {short(entry.get('id'))} of image {short(entry.get('image_id'))}"


def _annotations(
    block: list[dict[str, Any]], findings: Findings, boxless: list[int] | None = None
) -> tuple[np.ndarray, ...]:
    """(ids, image ids, category ids, boxes, crowds, areas, NaN where there is none) of a block.

    boxless: rows whose box is set later.
    """

    def name_of(row: int) -> str:
        return _annotation_name(block[row])

    values = _members(block, ("id", "image_id", "category_id", "iscrowd", "bbox", "area"))
    ids = columns.whole_numbers(values[0], name_of, findings, "annotation_id_missing", "annotation_id_malformed")
    image_of = columns.ids(values[1], name_of, findings, "annotation_image_malformed")
    category_of = columns.ids(values[2], name_of, findings, "annotation_category_malformed")
    crowds = columns.crowds(values[3], name_of, findings)
    boxes = columns.boxes(values[4], name_of, findings, boxless or ())
    areas = columns.areas(values[5], name_of, findings)
    ignored = [row for row, entry in enumerate(block) if entry.get("ignore")]
    findings.add("ignore_flag", len(ignored), map(name_of, ignored))
    return ids, image_of, category_of, boxes, crowds, areas


def _members(block: list[dict[str, Any]], keys: tuple[str, ...]) -> list[Sequence[Any]]:
    """The values of each of several keys in a block, None where an entry lacks the key."""
    if block:
        with contextlib.suppress(KeyError):
            return list(zip(*map(operator.itemgetter(*keys), block), strict=True))
    return [[entry.get(key) for entry in block] for key in keys]


def _boxless(block: list[dict[str, Any]]) -> list[int]:
    """The rows of the annotations that have an outline and no box."""
    return [row for row, entry in enumerate(block) if not entry.get("bbox") and has_outline(entry)]


def _fill_from_outlines(content: Content, boxless: set[int], boxes: np.ndarray, findings: Findings) -> None:
    """Computes the boxes of the annotations `boxless` (positions in the file) from their outlines."""
    first = 0
    for _, block in _blocks(content, ("annotations",), None, Findings()):
        for row, entry in enumerate(block):
            if first + row in boxless:
                box = box_of_outline(entry.get("segmentation"))
                if box is None:
                    findings.add("box_malformed", 1, [f"{_annotation_name(entry)}: {short(entry.get('bbox'))}"])
                else:
                    boxes[first + row] = box
                    findings.add("box_from_outline", 1, [_annotation_name(entry)])
        first += len(block)


def _fill_areas(areas: np.ndarray, boxes: np.ndarray) -> None:
    """Sets absent areas to the areas of their boxes."""
    absent = np.isnan(areas)
    sides = np.maximum(boxes[absent, 2:], 0)
    with np.errstate(over="ignore", invalid="ignore"):
        areas[absent] = np.minimum(sides[:, 0] * sides[:, 1], LARGEST_AREA)


def _categories(block: list[dict[str, Any]], findings: Findings) -> list[tuple[int, str]]:
    def name_of(row: int) -> str:
        return f"category {short(block[row].get('id'))} named {short(block[row].get('name'))}"

    ids = columns.ids([entry.get("id") for entry in block], name_of, findings, "category_id_malformed")
    categories = []
    for row, (number, entry) in enumerate(zip(ids.tolist(), block, strict=True)):
        name = entry.get("name")
        if type(name) is not str or not name:
            findings.add("category_name_missing", 1, [name_of(row)])
            name = str(number)
        categories.append((number, name))
    return categories


_BACKGROUND = frozenset({"background", "__background__", "_background_", "bg"})


def _without_placeholder(
    categories: list[tuple[int, str]], parents: set[str], category_of: np.ndarray, findings: Findings
) -> list[tuple[int, str]]:
    """The categories without one of id 0 that no object has and that is the background, or, as Roboflow writes it, the
    others' supercategory."""
    if len(categories) < 2 or (category_of == 0).any():
        return categories
    left_out = [name for number, name in categories if number == 0 and (name in parents or name.lower() in _BACKGROUND)]
    findings.add("category_placeholder", len(left_out), left_out)
    return [category for category in categories if category[0] != 0] if left_out else categories


@dataclass(frozen=True)
class CocoSource:
    """A split in a COCO annotation file.

    labels: the file. images: what `file_name` is relative to. image_files: the images below that folder, among which
    names from another disk are sought; None: names count as they are. near: see `resolve_names`.
    """

    labels: Path
    images: Path
    image_files: ImageFiles | None = None
    near: str = ""
    format: Format = field(default="coco", init=False)
    open_classes: bool = field(default=False, init=False)
    places: tuple[Path, ...] = field(default=(), init=False)

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """See `Source.read`."""
        tables = read_tables(self.labels, findings, of_files=of_files)
        if of_files and self.image_files is not None:
            tables.names = resolve_names(tables.names, self.image_files, findings, self.near)
        return tables
