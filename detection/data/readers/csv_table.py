"""A CSV file with a row for each box → tables. Where the files are: `detection.data.readers.csv_layout`.

The columns are known by their names (`csv_columns.py`). Coordinates are fractions of the image if most boxes of a set,
all its splits together, lie in 0 to 1 or a little beyond. `xmin` … `ymax` count as in Pascal VOC, whose files this
header was made from (`corners.py`); other corners are edges. A row without box and class is an image without objects.
Images are numbered from 1 on in the order of their names, classes in that of theirs.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import require_plain_file
from detection.common.encodings import as_utf8
from detection.data.findings import Example, Findings
from detection.data.foreign_names import ImageFiles, resolve_names
from detection.data.images import image_sizes
from detection.data.readers.corners import boxes_of_corners, checked_sizes, must_be_edges
from detection.data.readers.csv_columns import Columns, columns_of, columns_of_row
from detection.data.readers.source import Format
from detection.data.readers.voc import find_alike
from detection.data.split_words import SPLIT_WORDS
from detection.data.tables import LARGEST_AREA, Tables

USUAL_NAMES = "the usual names are filename, class, xmin, ymin, xmax, ymax"

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FAR = 2.0  # a fraction that reaches over the image's edge may be beyond 1, but not beyond this, as in `yolo_lines`


@dataclass(frozen=True)
class Table:
    """A CSV file's rows. numbers: the line of each."""

    path: Path
    columns: Columns
    rows: list[list[str]]
    numbers: list[int]

    @functools.cached_property
    def coordinates(self) -> np.ndarray:
        """The four numbers of each box, float64 (T, 4)."""
        numbers = [own for row in self.rows if (own := coordinates_of(self.columns, row))]
        return np.array(numbers, dtype=np.float64).reshape(-1, 4)

    def split_of(self, row: Sequence[str]) -> str | None:
        """The split that a row names."""
        return SPLIT_WORDS.get(self.stated_split(row).lower())

    def stated_split(self, row: Sequence[str]) -> str:
        """What stands in a row's column of splits."""
        position = self.columns.split
        return "" if position is None or position >= len(row) else row[position].strip()


def read_table(path: Path) -> Table | None:
    """The rows of a file; None if its columns are not those of boxes.

    Raises:
        UserError: it cannot be read, or is not UTF-8 text.
    """
    try:
        require_plain_file(path)
        text = _text(path)
        lines = text.splitlines()
        separator = max(",;\t|", key=(lines[0] if lines else "").count)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        first = next(reader, [])
        columns = columns_of(first) or columns_of_row(first)
        if columns is None:
            return None
        numbered = [] if columns.header else [(1, first)]
        numbered += [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return Table(path, columns, [row for _, row in numbered], [number for number, _ in numbered])


def _text(path: Path) -> str:
    try:
        return as_utf8(path.read_bytes()).decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


@dataclass(frozen=True)
class CsvSource:
    """A split in a CSV file.

    labels: the file. images: what image names are relative to. table: its rows. split: the value of the split column
    whose rows count; None: all. classes: the class names of all splits, sorted. others: image names of other splits.
    first_pixel, edges_in_set: see `boxes_of_corners`. tables: those of all splits, which decide what the numbers are.
    found: findings of the layout, as (kind, count, examples).
    """

    labels: Path
    images: Path
    table: Table
    image_files: ImageFiles
    classes: tuple[str, ...]
    near: str = ""
    split: str | None = None
    others: frozenset[str] = frozenset()
    first_pixel: int | None = None
    edges_in_set: bool = False
    tables: tuple[Table, ...] = ()
    found: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    format: Format = field(default="csv", init=False)
    open_classes: bool = field(default=True, init=False)
    places: tuple[Path, ...] = field(default=(), init=False)

    @property
    def has_edges(self) -> bool:
        """Whether corners are counted as in Pascal VOC, and one is at 0 or at a fraction of a pixel."""
        voc = [table.coordinates for table in self.tables if table.columns.kind == "voc"]
        return not are_fractions(self.tables) and any(must_be_edges(corners).any() for corners in voc)

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """See `Source.read`."""
        for kind, count, examples in self.found:
            findings.add(kind, count, examples)
        table, columns = self.table, self.table.columns
        rows = [i for i, row in enumerate(table.rows) if self.split is None or table.split_of(row) == self.split]
        rows = [i for i in rows if not self._is_short(i, findings)]
        stated_names = [table.rows[i][columns.image].strip() for i in rows]
        distinct = list(dict.fromkeys(stated_names))
        resolved = dict(zip(distinct, resolve_names(distinct, self.image_files, findings, self.near), strict=True))
        names = sorted(set(resolved.values()))
        row_of = {name: row for row, name in enumerate(names)}
        all_images = np.array([row_of[resolved[name]] for name in stated_names], dtype=np.int64)
        numbers, boxed = self._coordinates(rows, findings)
        line_of, of_image = [table.numbers[rows[i]] for i in boxed], all_images[boxed]

        def place_of(row: int) -> Example:
            return Example(f"{table.path}:{line_of[row]}", names[of_image[row]])

        sizes = self._stated_sizes(rows, all_images, len(names))
        boxes = self._boxes(numbers, of_image, names, findings, place_of, of_files)
        if of_files:
            sizes = checked_sizes(
                self.images, names, sizes, of_image, boxes, findings, has_sizes=columns.height is not None
            )
            rest = self._unlabelled(names)
            findings.add("image_unlabelled", len(rest), rest)
        number_of = {name: number for number, name in enumerate(self.classes, start=1)}
        categories = [number_of[class_of(columns, table.rows[rows[i]])] for i in boxed]
        difficult = np.array([self._is_difficult(table.rows[rows[i]]) for i in boxed], dtype=bool)
        marked = np.flatnonzero(difficult).tolist()
        findings.add("difficult", len(marked), map(place_of, marked))
        find_alike(self.classes, findings)
        return Tables(
            image_ids=np.arange(1, len(names) + 1),
            heights=sizes[0],
            widths=sizes[1],
            names=names,
            annotation_ids=np.arange(1, len(boxed) + 1),
            image_of=of_image + 1,
            category_of=np.array(categories, dtype=np.int64),
            boxes=boxes,
            crowds=difficult,
            areas=np.minimum(np.maximum(boxes[:, 2], 0) * np.maximum(boxes[:, 3], 0), LARGEST_AREA),
            categories=list(enumerate(self.classes, start=1)),
            place_of=place_of,
        )

    def _is_short(self, i: int, findings: Findings) -> bool:
        columns, row = self.table.columns, self.table.rows[i]
        short = len(row) <= columns.image or not row[columns.image].strip()
        findings.add("row_malformed", int(short), [f"{self.table.path}:{self.table.numbers[i]}: names no image"])
        return short

    def _coordinates(self, rows: list[int], findings: Findings) -> tuple[np.ndarray, list[int]]:
        """(the four numbers of each box, float64 (T, 4); the positions in `rows` of the rows with a box)."""
        numbers, boxed = [], []
        for i, at in enumerate(rows):
            own = coordinates_of(self.table.columns, self.table.rows[at])
            if own is None:
                cells = _coordinate_cells(self.table.columns, self.table.rows[at])
                findings.add("row_malformed", 1, [f"{self.table.path}:{self.table.numbers[at]}: {cells}"])
            elif own:
                numbers.append(own)
                boxed.append(i)
        return np.array(numbers, dtype=np.float64).reshape(-1, 4), boxed

    def _boxes(
        self,
        numbers: np.ndarray,
        of_image: np.ndarray,
        names: list[str],
        findings: Findings,
        place_of: Callable[[int], Example],
        of_files: bool,
    ) -> np.ndarray:
        """Boxes as x, y, width, height in pixels."""
        kind = self.table.columns.kind
        normalised = are_fractions(self.tables)
        if normalised:
            far = np.flatnonzero((np.abs(numbers) > _FAR).any(axis=1)).tolist()
            findings.add("row_in_pixels", len(far), map(place_of, far))
        if normalised and of_files:
            numbers = numbers * np.tile(image_sizes([self.images / name for name in names])[of_image, 1::-1], 2)
        if kind == "voc":
            first = 0 if normalised else self.first_pixel
            edges = self.edges_in_set or self.has_edges
            return boxes_of_corners(numbers, first, findings, place_of, edges_in_set=edges)
        if kind == "edges":
            return boxes_of_corners(numbers, self.first_pixel or 0, findings, place_of)
        if kind == "centre_size":
            return np.concatenate([numbers[:, :2] - numbers[:, 2:] / 2, numbers[:, 2:]], axis=1)
        return numbers

    def _stated_sizes(self, rows: list[int], of_image: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        sizes = []
        for position in (self.table.columns.height, self.table.columns.width):
            side = np.zeros(count, dtype=np.int64)
            for i, at in enumerate(rows if position is not None else ()):
                row = self.table.rows[at]
                cell = row[position].strip() if position is not None and position < len(row) else ""
                if _NUMBER.fullmatch(cell) and 0 < float(cell) < 1 << 31:
                    side[of_image[i]] = int(float(cell))
            sizes.append(side)
        return sizes[0], sizes[1]

    def _is_difficult(self, row: list[str]) -> bool:
        position = self.table.columns.difficult
        return position is not None and position < len(row) and row[position].strip().lower() in ("1", "true", "yes")

    def _unlabelled(self, names: list[str]) -> list[str]:
        """The images in the folders of labelled ones that no row names."""
        used, folders = set(names), {name.rpartition("/")[0] for name in names}
        return [
            file
            for file in sorted(self.image_files.files - used)
            if file.rpartition("/")[0] in folders and file.rpartition("/")[2] not in self.others
        ]


def coordinates_of(columns: Columns, row: Sequence[str]) -> list[float] | None:
    """The four numbers of a row's box; none if it has no box; None if they cannot be read."""
    cells = _coordinate_cells(columns, row)
    if not any(cells):
        return []
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    return numbers if len(numbers) == 4 else None


def _coordinate_cells(columns: Columns, row: Sequence[str]) -> list[str]:
    if columns.box is not None:
        return _NUMBER.findall(row[columns.box]) if columns.box < len(row) else []
    return [row[position].strip() if position < len(row) else "" for position in columns.coordinates]


def are_fractions(tables: Sequence[Table]) -> bool:
    """Whether the coordinates of a set are fractions of the image, not pixels: those of most boxes lie within ±2.

    One for all splits, and by most, since neither a box over the edge nor one wrong row says anything of the others.
    """
    near = [(np.abs(table.coordinates) <= _FAR).all(axis=1) for table in tables]
    return bool(near) and 2 * sum(map(np.count_nonzero, near)) > sum(map(len, near))


def class_of(columns: Columns, row: Sequence[str]) -> str:
    """The class that a row names; "object" where the file has no column of classes or the row leaves it out."""
    position = columns.category
    return (" ".join(row[position].split()) if position is not None and position < len(row) else "") or "object"


def has_box(columns: Columns, row: Sequence[str]) -> bool:
    """Whether a row has a box, and is not an image without objects."""
    positions = columns.coordinates if columns.box is None else (columns.box,)
    return any(position < len(row) and row[position].strip(" []") for position in positions)


def base_name(name: str) -> str:
    """The last part of an image's name."""
    return name.strip().replace("\\", "/").rsplit("/", 1)[-1]
