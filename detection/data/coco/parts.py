"""The parts of COCO in each of its layouts, and the archive that contains each part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from detection.data.coco.derived_splits import TRAIN2014, VAL2014, VAL2017

BASE_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """One of COCO's zip files: its path below the base URL, its bytes and its SHA-256."""

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Part:
    """A part of a layout, unpacked from one archive.

    Attributes:
        path: an annotation file or a folder of images, relative to the COCO folder and as named in the archive.
        archive: the archive that contains it.
        size: approximate bytes on the disk.
        images: the number of images in the folder; 0 for an annotation file.
    """

    path: str
    archive: Archive
    size: int
    images: int = 0

    def holds(self, member: str) -> bool:
        """Whether a member of the archive belongs to this part."""
        return member.startswith(f"{self.path}/") if self.images else member == self.path

    def missing_bytes(self, root: Path) -> int:
        """Approximate bytes of it that are missing below `root`; 0 if it is complete."""
        if not self.images:
            return 0 if (root / self.path).is_file() else self.size
        missing = max(0, self.images - _count_images(root / self.path))
        return -(-self.size * missing // self.images)  # rounded up, so that it is 0 only if nothing is missing

    def __str__(self) -> str:
        return f"{self.path}/ ({self.images:,} images)" if self.images else self.path


def _count_images(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(entry.name.endswith(".jpg") for entry in entries)


def _images(folder: str, images: int, size: int, sha256: str) -> Part:
    # A JPEG is not compressed further in an archive. On the disk, each occupies whole blocks of 4 KiB.
    return Part(folder, Archive(f"zips/{folder}.zip", size, sha256), size + images * 4096, images)


_ANNOTATIONS2017 = Archive(
    "annotations/annotations_trainval2017.zip",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
)
_ANNOTATIONS2014 = Archive(
    "annotations/annotations_trainval2014.zip",
    252_872_794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
)
_INSTANCES_VAL2017 = Part(VAL2017, _ANNOTATIONS2017, 20_000_000)

# The parts of each layout, small ones first, so that a wrong address or a full disk is detected early.
LAYOUTS: dict[str, tuple[Part, ...]] = {
    "2017": (
        _INSTANCES_VAL2017,
        Part("annotations/instances_train2017.json", _ANNOTATIONS2017, 470_000_000),
        _images("val2017", 5_000, 815_585_330, "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05"),
        _images(
            "train2017", 118_287, 19_336_861_798, "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"
        ),
    ),
    "2014": (
        _INSTANCES_VAL2017,  # for its image ids, which are minival's
        Part(VAL2014, _ANNOTATIONS2014, 161_000_000),
        Part(TRAIN2014, _ANNOTATIONS2014, 333_000_000),
        _images("val2014", 40_504, 6_645_013_297, "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
        _images(
            "train2014", 82_783, 13_510_573_713, "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"
        ),
    ),
}
