"""The official 2014 annotations and val2017's image ids → annotation files of trainval35k and minival.

minival consists of the images of val2014 that are in val2017, trainval35k of train2014 and the rest of val2014. (The
minival files that are found on the web have duplicates and fractional ids; therefore val2017 is used.) In the files
made here a file name begins with its folder (`val2014/COCO_val2014_000000001268.jpg`), because trainval35k has two.

The annotations are copied character for character, one at a time, so that only a window of an input file is in memory;
all objects of train2014 would take several GB.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection.common.json_stream import read_elements
from detection.data.coco.layout import MINIVAL, TRAINVAL35K

TRAIN2014 = "annotations/instances_train2014.json"
VAL2014 = "annotations/instances_val2014.json"
VAL2017 = "annotations/instances_val2017.json"


class Counts(NamedTuple):
    """The size of a split."""

    images: int
    annotations: int


OFFICIAL_COUNTS = {TRAINVAL35K: Counts(118_287, 860_001), MINIVAL: Counts(5_000, 36_781)}


def build_splits(root: Path, expected: Mapping[str, Counts] = OFFICIAL_COUNTS) -> dict[str, Counts]:
    """Writes `TRAINVAL35K` and `MINIVAL` below `root` from the official files there.

    Args:
        root: the COCO folder, with `TRAIN2014`, `VAL2014` and `VAL2017`.
        expected: the sizes that the two must have, if the inputs are not the official ones.

    Returns:
        The size of each of the two.

    Raises:
        UserError: an input is missing or damaged, the inputs do not belong together, a split does not have the expected
            size, or another file is in the place of a split. Then nothing is written.
    """
    minival_ids = _image_ids(root / VAL2017)
    with contextlib.ExitStack() as files:
        splits = {name: _SplitFile(files.enter_context(atomic_write(root / name))) for name in (TRAINVAL35K, MINIVAL)}
        for split in splits.values():
            files.enter_context(split.file)
        categories = []
        for source, own_ids in ((VAL2014, minival_ids), (TRAIN2014, frozenset[int]())):
            head = _distribute(root / source, own_ids, splits[MINIVAL], splits[TRAINVAL35K])
            categories.append(head["categories"])
        if categories[0] != categories[1]:
            raise UserError(f"{root / VAL2014} and {root / TRAIN2014} have different categories. {_REMEDY}")
        if absent := minival_ids - splits[MINIVAL].image_ids:
            raise UserError(
                f"{len(absent)} images of val2017, {min(absent)} for one, are not in {root / VAL2014}. {_REMEDY}"
            )
        for name, split in splits.items():
            if split.counts != expected[name]:
                raise UserError(
                    f"{name} would come to {_in_words(split.counts)}, where {_in_words(expected[name])} belong there: "
                    f"the annotation files in {root / 'annotations'} are not the official ones. {_REMEDY}"
                )
            origin = f"{PurePosixPath(name).stem}: COCO 2014, divided by the image ids of val2017"
            split.finish({"info": {"description": origin}, **head})
        for name, split in splits.items():
            split.file.close()
            if (root / name).exists() and not filecmp.cmp(split.path, root / name, shallow=False):
                raise UserError(
                    f"{root / name} is there already, and is not what is to be built from the official annotations. "
                    "Move it away and run again"
                )
        return {name: split.counts for name, split in splits.items()}


_REMEDY = "Move the files away and run prepare_coco.py again: it gets the official ones"


def _in_words(counts: Counts) -> str:
    return f"{counts.images:,} images with {counts.annotations:,} annotations"


class _SplitFile:
    """An annotation file that is written while the input is read; the images are kept and written at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("w", encoding="utf-8")
        self.file.write('{"annotations": [')
        self.annotations = 0
        self.images: list[str] = []
        self.image_ids: set[int] = set()

    def add_annotation(self, text: str) -> None:
        self.file.write(f"{',' if self.annotations else ''}\n{text}")
        self.annotations += 1

    def add_image(self, image: dict[str, Any], folder: str) -> None:
        file_name = f"{folder}/{PurePosixPath(image['file_name']).name}"
        self.images.append(json.dumps({**image, "file_name": file_name}))
        self.image_ids.add(image["id"])

    @property
    def counts(self) -> Counts:
        return Counts(len(self.images), self.annotations)

    def finish(self, head: dict[str, Any]) -> None:
        self.file.write('\n],\n"images": [\n' + ",\n".join(self.images) + "\n]")
        for key, value in head.items():
            self.file.write(f',\n"{key}": {json.dumps(value)}')
        self.file.write("}\n")


def _distribute(path: Path, minival_ids: frozenset[int], minival: _SplitFile, trainval: _SplitFile) -> dict[str, Any]:
    """Adds an official file's images and annotations to their splits; returns its licences and categories."""
    folder = path.stem.removeprefix("instances_")
    head: dict[str, list[Any]] = {"licenses": [], "categories": []}
    with _name_file_in_errors(path):
        for key, value, text in read_elements(path):
            if key == "annotations":
                (minival if value["image_id"] in minival_ids else trainval).add_annotation(text)
            elif key == "images":
                (minival if value["id"] in minival_ids else trainval).add_image(value, folder)
            elif key in head:
                head[key].append(value)
    return head


def _image_ids(path: Path) -> frozenset[int]:
    with _name_file_in_errors(path):
        return frozenset(value["id"] for key, value, _ in read_elements(path) if key == "images")


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Turns errors while an official file is read into a UserError that names the file."""
    if not path.exists():
        raise UserError(f"{path} is missing. Run prepare_coco.py: it gets it")
    try:
        yield
    except UserError as error:  # the reader's
        raise UserError(f"{path} is damaged or not COCO's ({error}). {_REMEDY}") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged or not COCO's ({type(error).__name__}: {error}). {_REMEDY}") from error
