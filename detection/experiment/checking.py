"""The splits of a configuration → all defects in them, before a long run: the checks of trainings and evaluations,
every image decoded, and the two splits compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backbones.common.errors import UserError
from detection import config as settings
from detection.data.discovery import NoSuchSplit
from detection.data.findings import Example, Findings, UnusableLabels
from detection.data.image_checks import equal_images
from detection.data.index import DatasetIndex
from detection.data.readers.source import Source
from detection.data.similar_images import similar_groups
from detection.experiment.class_matching import match_classes
from detection.experiment.datasets import check_split, training_images
from detection.experiment.label_location import Which


class DataConfig(settings.Config):
    """A configuration of which only the data is used: contradictory settings elsewhere are ignored."""

    def contradictions(self) -> list[str]:
        """The contradictory settings under `data`."""
        return [text for text in super().contradictions() if text.startswith("data.")]


@dataclass(frozen=True)
class Verdict:
    """The result of a check of one split or both: a text of one or more lines, and whether a run would be refused.

    which: the split. index: its images, if they can be used. findings: what was found in it, also if it is refused;
    root: the folder of its images.
    """

    text: str
    refused: bool = False
    which: str = ""
    index: DatasetIndex | None = None
    findings: Findings | None = None
    root: Path | None = None


def check_splits(data: settings.Data, sources: Mapping[Which, Source] | None = None) -> Iterator[Verdict]:
    """Yields the verdict on each split after its images are checked, then that on the two together. Writes nothing.

    sources: the labels of the splits to check, for one rank of several that checks alone; None: they are located.
    """
    found: dict[str, DatasetIndex] = {}
    splits: tuple[Which, ...] = ("train", "test") if sources is None else tuple(sources)
    for which in splits:
        try:
            index = check_split(data, which, None if sources is None else sources[which])
            _find_similar_images(index)
            if which == "test" and found:
                _find_shared_images(found["train"], index)
            if which == "train":
                training_images(data, index)
        except NoSuchSplit as error:
            yield Verdict(f"data.{which}: {error}", which == "train", which)
            continue
        except UnusableLabels as error:
            yield Verdict(f"data.{which}: {error}", True, which, None, error.findings, error.root)
            continue
        except UserError as error:
            yield Verdict(f"data.{which}: {error}", True, which)
            continue
        found[which] = index
        findings = index.findings.summary()
        text = f"data.{which}: {_headline(data, which, index)}; "
        text += f"found:\n{findings}" if findings else "nothing to repair"
        yield Verdict(text, False, which, index, index.findings, index.image_root)
    if len(found) == 2:
        train, test = found.values()
        try:
            match_classes(test, train.category_ids, train.category_names, train.annotation_file)
        except UserError as error:
            yield Verdict(str(error), refused=True)


def _headline(data: settings.Data, which: str, index: DatasetIndex) -> str:
    images = f"{len(index)} images"
    empty = int((~index.has_target).sum())
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
    test.findings.add("image_in_both_splits", len(pairs), (Example(f"{one} is {other}", one) for one, other in pairs))
    shared = {one for one, _ in pairs}
    similar = []
    for group in similar_across([train, test]):
        others = [i for split, i in group if split == 0]
        similar += [(test.file_name(i), train.file_name(others[0])) for split, i in group if split == 1 and others]
    similar = [pair for pair in similar if pair[0] not in shared]
    test.findings.add(
        "image_nearly_in_both_splits",
        len(similar),
        (Example(f"{one} nearly equals {other}", one) for one, other in similar),
    )


def _find_similar_images(index: DatasetIndex) -> None:
    """Adds the images of a split that nearly equal another one, and are not the same, to its findings."""
    assert index.digests is not None
    similar = []
    for group in similar_across([index]):
        first = group[0][1]
        seen = {index.digests[first].tobytes()}
        for _, i in group[1:]:
            if index.digests[i].tobytes() not in seen:
                seen.add(index.digests[i].tobytes())
                similar.append((index.file_name(i), index.file_name(first)))
    index.findings.add(
        "image_nearly_twice", len(similar), (Example(f"{one} nearly equals {other}", one) for one, other in similar)
    )


def similar_across(splits: Sequence[DatasetIndex]) -> list[list[tuple[int, int]]]:
    """Groups of nearly equal or equal images, each as (position of its split, position of the image in it)."""
    thumbnails = [index.thumbnails for index in splits if index.thumbnails is not None]
    places = [(number, i) for number, index in enumerate(splits) for i in range(len(index))]
    return [[places[row] for row in group] for group in similar_groups(np.concatenate(thumbnails))]
