"""The splits of a configuration → all defects in them, before a long run: the checks of trainings and evaluations,
every image decoded, and the two splits compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.discovery import NoSuchSplit
from detection.data.image_checks import equal_images
from detection.data.index import DatasetIndex
from detection.data.readers.source import Source
from detection.experiment.datasets import check_split, match_classes, training_images


class DataConfig(settings.Config):
    """A configuration of which only the data is used: contradictory settings elsewhere are ignored."""

    def contradictions(self) -> list[str]:
        """The contradictory settings under `data`."""
        return [text for text in super().contradictions() if text.startswith("data.")]


Which = Literal["train", "test"]


@dataclass(frozen=True)
class Verdict:
    """The result of a check of one split or both: a text of one or more lines, and whether a run would be refused."""

    text: str
    refused: bool = False


def check_splits(data: settings.Data, sources: Mapping[Which, Source] | None = None) -> Iterator[Verdict]:
    """Yields the verdict on each split after its images are checked, then that on the two together. Writes nothing.

    sources: the labels of the splits to check, for one rank of several that checks alone; None: they are located.
    """
    found: dict[str, DatasetIndex] = {}
    splits: tuple[Which, ...] = ("train", "test") if sources is None else tuple(sources)
    for which in splits:
        try:
            index = check_split(data, which, None if sources is None else sources[which])
            if which == "test" and found:
                _find_shared_images(found["train"], index)
            if which == "train":
                training_images(data, index)
        except NoSuchSplit as error:
            yield Verdict(f"data.{which}: {error}", refused=which == "train")
            continue
        except UserError as error:
            yield Verdict(f"data.{which}: {error}", refused=True)
            continue
        found[which] = index
        findings = index.findings.summary()
        yield Verdict(f"data.{which}: {_headline(data, which, index)}; " + (f"found:\n{findings}" if findings else
                      "nothing to repair"))  # fmt: skip
    if len(found) == 2:
        train, test = found.values()
        try:
            match_classes(test, train.category_ids, train.category_names, train.annotation_file)
        except UserError as error:
            yield Verdict(str(error), refused=True)


def _headline(data: settings.Data, which: str, index: DatasetIndex) -> str:
    images = f"{len(index)} images"
    targets = np.add.reduceat(np.append(~index.crowds, False), index.offsets[:-1]) * (np.diff(index.offsets) > 0)
    empty = int((targets == 0).sum())
    if empty:
        images += f" ({empty} without objects"
        if which == "train":
            images += ", trained on, too" if data.keep_empty else ", not trained on unless data.keep_empty=true"
        images += ")"
    return f"{index.annotation_file}: {images}, {len(index.boxes)} objects, {len(index.category_ids)} classes"


def _find_shared_images(train: DatasetIndex, test: DatasetIndex) -> None:
    """Adds the test images that are also training images to the findings of the test split."""
    assert train.digests is not None
    assert test.digests is not None
    names = [[index.file_name(i) for i in range(len(index))] for index in (test, train)]
    pairs = equal_images(test.digests, names[0], train.digests, names[1])
    test.findings.add("image_in_both_splits", len(pairs), (f"{one} is {other}" for one, other in pairs))
