"""The labels of one split, in whatever format: what `detection.data.index.load_index` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from detection.data.findings import Findings
from detection.data.tables import Tables

Format = Literal["coco", "yolo", "voc", "csv", "images"]
TITLES: dict[Format, str] = {
    "coco": "COCO",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "csv": "CSV",
    "images": "images without labels",
}


class Source(Protocol):
    """A split's labels.

    labels: the file or folder of the labels, for messages. images: the folder that the image names are relative to.
    open_classes: whether the labels list only the classes that occur, so that another split may have more.
    places: the files and folders that labels and images lie in, where these are not all that is below `images`; else
    empty.
    """

    @property
    def format(self) -> Format: ...
    @property
    def labels(self) -> Path: ...
    @property
    def images(self) -> Path: ...
    @property
    def open_classes(self) -> bool: ...
    @property
    def places(self) -> Sequence[Path]: ...

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """The content as tables; defects are added to `findings`.

        of_files: whether the image files will be used. If not, none is opened, and sizes may be wrong.
        """
        ...


@dataclass(frozen=True)
class Options:
    """What a user says about labels beyond where they are.

    classes: class names in the order of their numbers, for labels that name none. first_pixel: see
    `detection.data.readers.corners`. format: None where the files show it.
    """

    classes: Sequence[str] = ()
    first_pixel: int | None = None
    format: Format | None = None
