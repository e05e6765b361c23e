"""What a folder was found to hold: a format, and the labels of each split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from detection.data.readers.source import TITLES, Format, Source

WHOLE = "all"  # the split of a set that comes in one piece


@dataclass(frozen=True)
class Layout:
    """The labels of one format in a folder.

    evidence: the file or folder that shows the format. splits: name ("train", "val", "test", "trainval", or `WHOLE`) →
    what opens its labels. notes: what was left out, and why.
    """

    format: Format
    evidence: str
    splits: Mapping[str, Callable[[], Source]]
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"{TITLES[self.format]} ({self.evidence})"
