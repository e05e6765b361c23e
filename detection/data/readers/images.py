"""A folder of images without labels → tables without objects: for detections, not for training or figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detection.data.findings import Findings
from detection.data.images import image_sizes
from detection.data.readers.source import Format
from detection.data.tables import Tables


@dataclass(frozen=True)
class ImagesSource:
    """The images below a folder. names: relative to it. classes: those of the configuration, which may be none."""

    labels: Path
    names: tuple[str, ...]
    classes: tuple[str, ...] = ()
    format: Format = field(default="images", init=False)
    open_classes: bool = field(default=True, init=False)
    places: tuple[Path, ...] = field(default=(), init=False)

    @property
    def images(self) -> Path:
        """The folder."""
        return self.labels

    def read(self, findings: Findings, *, of_files: bool = True) -> Tables:
        """See `Source.read`."""
        names = sorted(self.names)
        sizes = image_sizes([self.labels / name for name in names]) if of_files else np.ones((len(names), 3), np.int64)
        nothing = np.zeros(0, dtype=np.int64)
        return Tables(
            image_ids=np.arange(1, len(names) + 1),
            heights=sizes[:, 0],
            widths=sizes[:, 1],
            names=names,
            annotation_ids=nothing,
            image_of=nothing,
            category_of=nothing,
            boxes=np.zeros((0, 4)),
            crowds=np.zeros(0, dtype=bool),
            areas=np.zeros(0),
            categories=list(enumerate(self.classes, start=1)),
        )
