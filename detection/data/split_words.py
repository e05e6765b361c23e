"""Paths → the split that they name: train, val, test or trainval."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SPLIT_WORDS = {
    "train": "train", "training": "train", "trainset": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "valset": "val", "dev": "val", "eval": "val",
    "test": "test", "testing": "test", "testset": "test", "tst": "test",
    "trainval": "trainval",
}  # fmt: skip
_WORD = re.compile(r"[a-z]+")


def split_of(path: str) -> str | None:
    """The split that a path names: by its file's name, else by its innermost folder that names one.

    >>> [split_of(path) for path in ("valid/_annotations.coco.json", "annotations/instances_train2017.json", "a/b.csv")]
    ['val', 'train', None]
    """
    for part in reversed(PurePosixPath(path).parts):
        words = [SPLIT_WORDS[word] for word in _WORD.findall(part.lower()) if word in SPLIT_WORDS]
        if words and len(set(words)) == 1:
            return words[0]
    return None
