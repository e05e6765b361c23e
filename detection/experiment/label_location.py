"""Configuration → where the labels and the images of a split are."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Literal

from backbones.common.errors import UserError
from backbones.common.files import user_path
from detection import config as settings
from detection.data.coco.layout import resolve_split
from detection.data.demo import demo_files, make_demo_dataset
from detection.data.discovery import find_layout, source_of_files, source_of_split
from detection.data.readers.coco import CocoSource
from detection.data.readers.csv_table import CsvSource
from detection.data.readers.source import Options, Source
from detection.data.readers.voc import VocSource
from detection.training.consensus import together
from detection.training.distributed import is_main, on_main

Which = Literal["train", "test"]  # data.train or data.test


def locate(data: settings.Data, which: Which, said: list[str] | None = None) -> Source:
    """The labels and the image folder that the configuration names, or otherwise those of the layout. What corners of
    boxes mean is decided once for both splits, also where each is named by itself.

    said: receives the line that is logged about what was found."""
    source = _located(data, which, said)
    named = data.train.annotations is not None or data.test.annotations is not None
    if named and data.split.test is None and isinstance(source, (VocSource, CsvSource)):
        with contextlib.suppress(UserError):  # the other split may be none, and may not be needed
            other = _located(data, "test" if which == "train" else "train")
            if isinstance(source, CsvSource) and isinstance(other, CsvSource):
                return dataclasses.replace(source, tables=(*source.tables, *other.tables))
            if isinstance(other, (VocSource, CsvSource)) and other.has_edges:
                return dataclasses.replace(source, edges_in_set=True)
    return source


def _located(data: settings.Data, which: Which, said: list[str] | None = None) -> Source:
    root, split = user_path(data.root), getattr(data, which)
    if data.split.test is not None:  # both are parts of the labels of data.train
        split = data.train
    options = label_options(data)
    if split.annotations is not None and (split.images is not None or data.layout == "auto"):
        annotations = root / user_path(split.annotations)
        images = None if split.images is None else root / user_path(split.images)
        return together(
            f"looking for the labels of data.{which}", lambda: source_of_files(annotations, images, which, options)
        )
    if split.annotations is not None or split.images is not None:
        given, missing = ("annotations", "images") if split.images is None else ("images", "annotations")
        raise UserError(
            f"data.{which}.{given} without data.{which}.{missing}: give both, or neither for the files of "
            f"data.layout={data.layout}"
        )
    if data.layout == "files":
        raise UserError(
            f"data.{which}: no files are named; give data.{which}.annotations and data.{which}.images "
            "(data.layout is files)"
        )
    if data.layout == "demo":
        on_main(lambda: make_demo_dataset(root))
        return CocoSource(*demo_files(root, split.name))
    if data.layout == "coco":
        return CocoSource(*together(f"looking for the files of data.{which}", lambda: resolve_split(root, split.name)))
    return together(f"looking for the labels of data.{which}", lambda: _found(data, which, root, options, said))


def label_options(data: settings.Data) -> Options:
    """What a configuration says about labels beyond where they are."""
    return Options(data.classes, data.first_pixel, None if data.format == "auto" else data.format)


def _found(data: settings.Data, which: Which, root: Path, options: Options, said: list[str] | None) -> Source:
    """The labels of a split in data.root, whose layout is found out."""
    layout = find_layout(root, options)
    if data.split.test is None:
        return source_of_split(layout, root, which, getattr(data, which).name, quiet=not is_main(), said=said)
    if len(layout.splits) > 1:
        raise UserError(
            f"{root}: has splits of its own ({', '.join(layout.splits)}), and data.split would divide it again; leave "
            "data.split out, or name the labels to be divided as data.train.annotations"
        )
    if which == "test":  # the same line as for data.train
        said = None
    return source_of_split(layout, root, "train", data.train.name, quiet=not is_main() or which == "test", said=said)
