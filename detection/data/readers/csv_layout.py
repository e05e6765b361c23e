"""A folder → where its CSV files of boxes are. Splits: a column `split`, else the names of the files or folders."""

from __future__ import annotations

import functools
from collections.abc import Callable
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
    line = start_of(path).split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    rows = [line.split(separator) for separator in ",;\t|"]
    return any(columns_of(row) or columns_of_row(row) for row in rows) or line.count(",") == 5


def layout_of_tables(listing: Listing, tables: dict[str, Table], options: Options) -> Layout:
    """The splits of some CSV files by their paths relative to the listing's root. See `find_layouts`."""
    by_split: dict[str, tuple[str, str | None]] = {}
    for file, table in tables.items():
        named = dict.fromkeys(table.split_of(row) for row in table.rows)
        values = [value for value in named if value is not None]
        own = [(value, value) for value in values] if values else [(split_of(file) or WHOLE, None)]
        for split, value in own:
            if split in by_split:
                raise UserError(
                    f"{listing.root}: {by_split[split][0]} and {file} are both CSV files of "
                    f"{'the whole set' if split == WHOLE else split}; name the one that is meant as "
                    f"data.{'test' if split in ('test', 'val') else 'train'}.annotations"
                )
            by_split[split] = (file, value)
    rows = [(table.columns, row) for table in tables.values() for row in table.rows]
    found = {class_of(columns, row) for columns, row in rows if has_box(columns, row)}
    names = {
        split: frozenset(
            base_name(row[tables[file].columns.image])
            for row in tables[file].rows
            if len(row) > tables[file].columns.image and (value is None or tables[file].split_of(row) == value)
        )
        for split, (file, value) in by_split.items()
    }  # fmt: skip

    edges_in_set = any(table.has_edges for table in tables.values())

    def source(split: str) -> Source:
        file, value = by_split[split]
        return CsvSource(
            labels=listing.root / file,
            images=listing.root,
            table=tables[file],
            image_files=listing.image_files,
            classes=tuple(sorted(found.union(options.classes))),
            near=f"{file.rpartition('/')[0]}/{split}",
            split=value,
            others=frozenset().union(*(own for other, own in names.items() if other != split)),
            first_pixel=options.first_pixel,
            edges_in_set=edges_in_set,
        )

    splits: dict[str, Callable[[], Source]] = {split: functools.partial(source, split) for split in by_split}
    return Layout("csv", ", ".join(tables), splits)
