"""The test split and the configuration → the test images whose files also stand in train.

Equal files are found here, which needs few reads: only files of equal size are compared. Images that are equal in their
pixels but not in their bytes are found by `tools/check_dataset.py`, which decodes every image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.files import sha256_of, user_path
from detection import config as settings
from detection.data.index import DatasetIndex
from detection.data.index_cache import open_kept
from detection.data.readers.source import Source
from detection.experiment.datasets import facts_of, load_split
from detection.experiment.label_location import locate


def training_source(data: settings.Data) -> Source | None:
    """The labels of data.train, or None if they or their images are not at hand. Nothing is created. Every rank calls
    this."""
    root = user_path(data.root)
    if data.layout == "demo" and not (root / "annotations" / f"instances_{data.train.name}.json").is_file():
        return None  # `locate` would draw the images
    try:
        source = locate(data, "train")
    except UserError:
        return None
    return source if source.labels.exists() and source.images.is_dir() else None


def images_also_in_train(data: settings.Data, source: Source, test: DatasetIndex) -> list[str]:
    """The names of the test images whose bytes are those of a training image, in the order of the split.

    Args:
        source: of `training_source`.

    Raises:
        UserError: the training labels cannot be used.
    """
    kept = open_kept(facts_of(data, "train", "present")) if data.cache else None
    train = kept.index if kept else load_split(data, "train", source, "listed")
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path, size in _sizes(source.images / train.file_name(i) for i in range(len(train))):
        by_size[size].append(path)
    digests: dict[Path, str | None] = {}

    def digest(path: Path) -> str | None:
        if path not in digests:
            try:
                digests[path] = sha256_of(path)
            except OSError:
                digests[path] = None
        return digests[path]

    shared = []
    for path, size in _sizes(test.path(i) for i in range(len(test))):
        own = digest(path) if size in by_size else None
        if own is not None and any(digest(other) == own for other in by_size[size]):
            shared.append(path.name)
    return shared


def _sizes(paths: Iterable[Path]) -> Iterable[tuple[Path, int]]:
    for path in paths:
        try:
            yield path, path.stat().st_size
        except OSError:
            continue
