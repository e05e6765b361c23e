"""Small data sets of every format, written as exporters write them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detection import config as settings
from detection.data.index import DatasetIndex
from detection.experiment.datasets import open_split


def draw(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> None:
    """An image of random grey levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write(path: Path, text: str | bytes) -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def voc(name: str, *objects: tuple[Any, ...], size: str = "<width>60</width><height>40</height>") -> str:
    """An XML file; an object is (class, xmin, ymin, xmax, ymax) and possibly its `difficult`."""
    body = "".join(
        f"<object><name>{own[0]}</name><difficult>{own[5] if len(own) > 5 else 0}</difficult><bndbox><xmin>{own[1]}"
        f"</xmin><ymin>{own[2]}</ymin><xmax>{own[3]}</xmax><ymax>{own[4]}</ymax></bndbox></object>"
        for own in objects
    )
    return (
        f"<annotation><folder>x</folder><filename>{name}</filename><path>C:\\me\\{name}</path>"
        f"<size>{size}<depth>3</depth></size>{body}</annotation>"
    )


def opened(root: Path, which: Any = "train", **data: Any) -> DatasetIndex:
    """The index of a split of a folder, whose layout is found out."""
    return open_split(settings.Data(root=str(root), **data), which)


def objects_of(index: DatasetIndex) -> dict[str, list[tuple[str, list[float]]]]:
    """Image name → (class, box) of each object."""
    found = {}
    for i in range(len(index)):
        boxes, labels, _ = index.objects(i)
        names = [index.category_names[label - 1] for label in labels.tolist()]
        found[index.file_name(i)] = list(zip(names, boxes.tolist(), strict=True))
    return found


def kinds_of(index: DatasetIndex) -> dict[str, int]:
    """Finding → count."""
    return {kind: finding.count for kind, finding in index.findings.by_kind.items()}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log with its information."""
    caplog.set_level(logging.INFO)
    return caplog
