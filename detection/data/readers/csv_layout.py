"""A folder → where its CSV files of boxes are. Splits: a column `split`, else the names of the files or folders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from backbones.common.errors import UserError
from detection.common.label_kinds import start_of
from detection.data.listing import Listing
from detection.data.readers.csv_columns import columns_of, columns_of_row
from detection.data.readers.csv_table import CsvSource, Table, base_name, class_of, has_box, read_table
from detection.data.readers.layout import WHOLE, Layout
from detection.data.readers.source import Options, Source
from detection.data.split_words import split_of


def find_layouts(listing: Listing, options: Options) -> list[Layout]:
    """The data set that the CSV files of a folder make up: none or one.

    Raises:
        UserError: several files are of the same split, or one cannot be read.
    """
    files = [file for file in listing.with_ending(".csv", ".tsv") if _may_be_boxes(listing.root / file)]
    tables = {file: table for file in files if (table := read_table(listing.root / file)) is not None and table.rows}
    if not tables:
        return []
    return [layout_of_tables(listing, tables, options)]


def _may_be_boxes(path: Path) -> bool:
    line = start_of(path).split(b"\n", 1)[0].decode("utf-8", "replace")
    rows = [line.split(separator) for separator in ",;\t|"]
    return any(columns_of(row) or columns_of_row(row) for row in rows) or line.count(",") == 5


def layout_of_tables(listing: Listing, tables: dict[str, Table], options: Options) -> Layout:
    """The splits of some CSV files by their paths within the data set. See `find_layouts`."""
    by_split: dict[str, tuple[str, str | None]] = {}
    left_out: list[tuple[Table, int]] = []
    for file, table in tables.items():
        named = dict.fromkeys(table.split_of(row) for row in table.rows)
        values = [value for value in named if value is not None]
        left_out += [(table, i) for i, row in enumerate(table.rows) if values and table.split_of(row) is None]
        own = [(value, value) for value in values] if values else [(split_of(file) or WHOLE, None)]
        for split, value in own:
            if split in by_split:
                raise UserError(
                    f"{listing.root}: {by_split[split][0]} and {file} are both CSV files of "
                    f"{'the whole set' if split == WHOLE else split}; name the one that is meant as "
                    f"data.{'test' if split in ('test', 'val') else 'train'}.annotations"
                )
            by_split[split] = (file, value)
    rows_of = {
        split: [(tables[file], row) for row in tables[file].rows if value in (None, tables[file].split_of(row))]
        for split, (file, value) in by_split.items()
    }
    read = [pair for pairs in rows_of.values() for pair in pairs]
    classes = {class_of(table.columns, row) for table, row in read if has_box(table.columns, row)}
    names = {split: _image_names(pairs) for split, pairs in rows_of.items()}
    ignored = _image_names([(table, table.rows[i]) for table, i in left_out])
    strays = [f"{table.path}:{table.numbers[i]}: {table.stated_split(table.rows[i])!r}" for table, i in left_out[:5]]

    def source(split: str) -> Source:
        file, value = by_split[split]
        return CsvSource(
            labels=tables[file].path,
            images=listing.root,
            table=tables[file],
            image_files=listing.image_files,
            classes=tuple(sorted(classes.union(options.classes))),
            near=f"{file.rpartition('/')[0]}/{split}",
            split=value,
            others=ignored.union(*(own for other, own in names.items() if other != split)),
            first_pixel=options.first_pixel,
            tables=tuple(tables.values()),
            found=(("row_without_split", len(left_out), tuple(strays)),),
        )

    splits: dict[str, Callable[[], Source]] = {split: functools.partial(source, split) for split in by_split}
    return Layout("csv", ", ".join(tables), splits)


def _image_names(rows: Iterable[tuple[Table, Sequence[str]]]) -> frozenset[str]:
    """The images that some rows name, without their folders."""
    return frozenset(base_name(row[table.columns.image]) for table, row in rows if len(row) > table.columns.image)
