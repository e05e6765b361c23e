"""A COCO folder and a split's name → the split's annotation file and the folder that its file names are relative to.

COCO has two layouts. The later one has `train2017/`, `val2017/` and `annotations/instances_{train,val}2017.json`; the
earlier one the same with 2014, and file names such as `COCO_val2014_000000001268.jpg`. Both have the same images,
divided differently: trainval35k is exactly train2017, and minival exactly val2017. In the 2014 layout these two have
annotation files of their own, built by `derived_splits.py`, in which a file name begins with its folder.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean

TRAINVAL35K = "annotations/instances_trainval35k.json"
MINIVAL = "annotations/instances_minival.json"


@dataclass(frozen=True)
class Place:
    """Where a split's files are in a COCO folder. All paths are relative to that folder.

    Attributes:
        annotations: the annotation file.
        folders: the folders of its images.
        images: what the annotation file's file names are relative to.
    """

    annotations: str
    folders: tuple[str, ...]
    images: str


def _own_folder(annotations: str, folder: str) -> Place:
    return Place(annotations, (folder,), folder)


_TRAIN2017 = _own_folder("annotations/instances_train2017.json", "train2017")
_VAL2017 = _own_folder("annotations/instances_val2017.json", "val2017")

# The places where a split may be, the preferred one first.
SPLITS: dict[str, tuple[Place, ...]] = {
    "trainval35k": (_TRAIN2017, Place(TRAINVAL35K, ("train2014", "val2014"), ".")),
    "minival": (_VAL2017, Place(MINIVAL, ("val2014",), ".")),
    "train2017": (_TRAIN2017,),
    "val2017": (_VAL2017,),
    "test2017": (_own_folder("annotations/image_info_test2017.json", "test2017"),),
    "test-dev2017": (_own_folder("annotations/image_info_test-dev2017.json", "test2017"),),
    "train2014": (_own_folder("annotations/instances_train2014.json", "train2014"),),
    "val2014": (_own_folder("annotations/instances_val2014.json", "val2014"),),
}


def resolve_split(root: Path, split: str) -> tuple[Path, Path]:
    """Finds a split in a COCO folder of either layout.

    Args:
        root: the folder with `annotations/` in it.
        split: a key of `SPLITS`.

    Returns:
        The annotation file, and the folder that the file names in it are relative to.

    Raises:
        UserError: an unknown split, or its files are missing; the message lists the expected files and the remedy.

    Example: `resolve_split(Path("coco"), "minival")` gives `coco/annotations/instances_val2017.json` and `coco/val2017`
    in the 2017 layout, `coco/annotations/instances_minival.json` and `coco` in the 2014 layout.
    """
    if split not in SPLITS:
        hint = did_you_mean(split, SPLITS) or "."
        raise UserError(f"COCO has no split named {split!r}{hint} There are {', '.join(SPLITS)}")
    for place in SPLITS[split]:
        if (root / place.annotations).is_file() and all(_has_content(root / folder) for folder in place.folders):
            return root / place.annotations, root / place.images
    looked_for = "; or ".join(_describe(root, place) for place in SPLITS[split])
    raise UserError(f"{root} does not hold COCO's split {split}. Looked for {looked_for}. {_remedy(root, split)}")


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is not None


def _describe(root: Path, place: Place) -> str:
    parts = [f"{place.annotations} ({'found' if (root / place.annotations).is_file() else 'missing'})"]
    for folder in place.folders:
        state = "found" if _has_content(root / folder) else "empty" if (root / folder).is_dir() else "missing"
        parts.append(f"{folder}/ ({state})")
    return " and ".join(parts)


def _remedy(root: Path, split: str) -> str:
    if split.startswith("test"):
        return f"Unpack test2017.zip and image_info_{split}.zip of https://cocodataset.org/#download there"
    layout = " --layout 2014" if split.endswith("2014") else ""
    return f"Get what is missing with: python tools/prepare_coco.py --data {shlex.quote(str(root))}{layout}"
