"""Image files that are found, measured and looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from backbones.common.errors import UserError
from detection.data.findings import KINDS
from detection.data.image_checks import equal_images
from detection.data.index import DatasetIndex, load_index

SIDES = (24, 36)  # height, width


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIDES, 3), dtype=np.uint8)


def load(folder: Path, names: list[str], check: Any = "sound", sizes: Any = None, **options: Any) -> DatasetIndex:
    """An index of images with these file names, an object on each."""
    sizes = sizes or [SIDES] * len(names)
    content = {
        "images": [
            {"id": i, "file_name": name, "height": height, "width": width}
            for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True))
        ],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    return load_index(folder / "annotations.json", folder / "images", name="x", check=check, **options)


def counts(index: DatasetIndex) -> dict[str, int]:
    return {kind: finding.count for kind, finding in index.findings.by_kind.items()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with four different images."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "sub/c.png", "d.png")):
        Image.fromarray(pixels(i)).save(folder / name)
    return folder


@pytest.mark.parametrize("check", ["listed", "present", "sound"])
def test_the_same_file_under_two_ids(images: Path, check: Any) -> None:
    """Each has half of the objects; what the other has is background to it."""
    index = load(images.parent, ["a.png", "b.png", "a.png"], check)
    assert counts(index) == {"image_name_twice": 1}
    assert "file names that several image ids share" in index.findings.summary()
    assert index.findings.summary().endswith("(a.png)")
    assert len(index) == 3


def test_the_same_pixels_in_two_files(images: Path) -> None:
    Image.fromarray(pixels(0)).save(images / "other.bmp")
    Image.fromarray(pixels(0)).save(images / "third.png", compress_level=1)
    index = load(images.parent, ["a.png", "b.png", "other.bmp", "third.png", "sub/c.png"])
    assert counts(index) == {"image_content_twice": 2}
    assert "(other.bmp and a.png; third.png and a.png)" in index.findings.summary()
    assert counts(load(images.parent, ["a.png", "other.bmp"], "present")) == {}


def test_equal_images_of_two_splits(images: Path) -> None:
    one = load(images.parent, ["a.png", "b.png"])
    other = load(images.parent, ["d.png", "b.png", "a.png"])
    assert one.digests is not None
    assert other.digests is not None
    names = ["d.png", "b.png", "a.png"]
    assert equal_images(other.digests, names, one.digests, ["a.png", "b.png"]) == [
        ("b.png", "b.png"),
        ("a.png", "a.png"),
    ]
    assert equal_images(np.zeros((1, 16), np.uint8), ["x"], np.zeros((1, 16), np.uint8), ["y"]) == []  # not decoded
    subset = other.subset([2])
    assert subset.digests is not None
    assert subset.digests.tolist() == [other.digests[2].tolist()]
    assert load(images.parent, ["a.png"], "present").digests is None


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
@pytest.mark.parametrize("check", ["listed", "present", "sound"])
@pytest.mark.parametrize("name", ["/etc/a.png", "../images/a.png", "sub/../../images/a.png", "..\\a.png", "C:\\a.png"])
def test_names_that_lead_out_are_refused(images: Path, name: str, check: Any, purpose: Any) -> None:
    with pytest.raises(UserError) as refusal:
        load(images.parent, ["b.png", name], check, purpose=purpose)
    message = str(refusal.value)
    assert f"1 {KINDS['image_name_outside'].found}: name the file relative to the image folder ({name})" in message
    assert "without a file" not in message
    assert message.count("\n") == 1


def test_dots_within_the_folder_are_names(images: Path) -> None:
    Image.fromarray(pixels(7)).save(images / "a..b.png")
    index = load(images.parent, ["a..b.png", "sub/../b.png", "./d.png"], "present")
    assert counts(index) == {}


def test_files_that_are_spelled_in_another_way_are_used(images: Path) -> None:
    exact = load(images.parent, ["a.png", "sub/c.png"], "present")
    index = load(images.parent, ["A.PNG", "sub\\c.png", "b.png"])
    assert counts(index) == {"image_respelled": 2}
    assert "A.PNG → a.png: capitals; sub\\\\c.png → sub/c.png: backslashes" in index.findings.summary().replace(
        "sub\\c", "sub\\\\c"
    )
    assert [index.file_name(i) for i in range(3)] == ["a.png", "sub/c.png", "b.png"]
    assert index.path(0) == images / "a.png"
    # The data set is told by what its label file states, wherever that was made.
    assert index.fingerprint == load(images.parent, ["A.PNG", "sub\\c.png", "b.png"], "listed").fingerprint
    assert exact.fingerprint != index.fingerprint


def test_missing_files_are_told_once_and_with_what_is_there(images: Path) -> None:
    (images / "link.png").symlink_to(images / "nowhere.png")
    with pytest.raises(UserError) as refusal:
        load(images.parent, ["c.png", "link.png", "a.jpg"], "sound", sizes=[SIDES, SIDES, (None, None)])
    message = str(refusal.value)
    assert "3 images without a file" in message
    assert f"{images}/c.png (sub/c.png is there: is the image folder the right one?)" in message
    assert f"{images}/a.jpg (a.png is there, with another ending)" in message
    assert message.count("\n") == 1  # nothing that follows from it


def test_unusable_sizes_are_told_once(images: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load(images.parent, ["a.png", "b.png"], "sound", sizes=[("tall", 36), (24, -1)])
    assert "2 images whose `width` or `height` is no usable number" in str(refusal.value)
    assert str(refusal.value).count("\n") == 1


def test_nearly_black_images(images: Path) -> None:
    """12-bit data as they are in 16 bits."""
    random = np.random.default_rng(0)
    cv2.imwrite(str(images / "dark.png"), random.integers(0, 4096, SIDES).astype(np.uint16))
    cv2.imwrite(str(images / "deep.png"), random.integers(0, 65536, SIDES).astype(np.uint16))
    cv2.imwrite(str(images / "black.png"), np.zeros(SIDES, np.uint8))
    index = load(images.parent, ["a.png", "dark.png", "deep.png", "black.png"])
    assert counts(index) == {"image_nearly_black": 1}
    assert "dark.png: at most 16 of 255" in index.findings.summary()


def turned_file(folder: Path, name: str, orientation: int, seed: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels(seed)).save(folder / name, exif=exif)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_orientations_that_others_speak_against(images: Path, kind: str) -> None:
    """Sizes as stored say that the annotations were made on the stored pixels; where sizes cannot tell, images would be
    turned against their boxes.
    """
    names = [f"{orientation}.{kind}" for orientation in (6, 3, 8, 1)]
    for seed, (name, orientation) in enumerate(zip(names, (6, 3, 8, 1), strict=True)):
        turned_file(images, name, orientation, 10 + seed)
    turned = SIDES[::-1]
    stored = load(images.parent, names, sizes=[SIDES, SIDES, SIDES, SIDES])
    assert counts(stored) == {"orientation_doubtful": 1}
    assert f"(3.{kind}: orientation 3)" in stored.findings.summary()
    mixed = load(images.parent, names, sizes=[SIDES, SIDES, turned, SIDES])
    assert counts(mixed) == {"orientation_doubtful": 2}
    upright = load(images.parent, names, sizes=[turned, SIDES, turned, SIDES])
    assert counts(upright) == {}
    unstated = load(images.parent, names, sizes=[(None, None)] * 4)
    assert counts(unstated) == {"size_missing": 4}


def test_control_characters_in_names_are_escaped_in_messages(images: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load(images.parent, ["a.png", "b\x1b[2J\n.png"])
    assert "b\\x1b[2J\\n.png" in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
