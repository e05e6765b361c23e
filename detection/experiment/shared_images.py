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
from detection.data.index import DatasetIndex, load_index
from detection.experiment.datasets import locate


def training_files(data: settings.Data) -> tuple[Path, Path] | None:
    """The annotation file and the image folder of data.train, or None if they are not at hand. Nothing is created.
    Every rank calls this."""
    try:
        if data.layout == "demo":  # `locate` would draw the images
            root = user_path(data.root)
            annotations, folder = root / "annotations" / f"instances_{data.train.name}.json", root / data.train.name
        else:
            annotations, folder = locate(data, "train")
    except UserError:
        return None
    return (annotations, folder) if annotations.is_file() and folder.is_dir() else None


def images_also_in_train(files: tuple[Path, Path], test: DatasetIndex) -> list[str]:
    """The names of the test images whose bytes are those of a training image, in the order of the split.

    Args:
        files: of `training_files`.

    Raises:
        UserError: the training annotations cannot be used.
    """
    annotations, folder = files
    train = load_index(annotations, None, name="train", purpose="training")
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path, size in _sizes(folder / train.file_name(i) for i in range(len(train))):
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
