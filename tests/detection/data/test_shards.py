"""Images in tar files: found, read at random, and told in words where they cannot be."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbones.common.errors import UserError
from detection.data.augmentation import Augmentation
from detection.data.batch_plan import BatchPlan
from detection.data.dataset import DetectionDataset
from detection.data.findings import UnusableLabels
from detection.data.images import ImageError, read_image
from detection.data.index import DatasetIndex, load_index
from detection.data.loader import training_batches
from detection.data.shards import MemberPath, open_shards, shard_files

Pack = Callable[..., Path]


@pytest.fixture
def loose(make_index: Callable[..., DatasetIndex]) -> DatasetIndex:
    return make_index([(30, 40), (40, 30), (25, 35), (50, 20), (20, 50)])


@pytest.fixture
def pack(loose: DatasetIndex, tmp_path: Path) -> Pack:
    """Writes images into tar files, two in each, beside texts, and returns their folder."""

    def write(form: Any = tarfile.PAX_FORMAT, folder: str = "shards", inside: str = "") -> Path:
        (tmp_path / folder).mkdir()
        for number in range(3):
            with tarfile.open(tmp_path / folder / f"all-{number:02d}.tar", "w", format=form) as tar:
                for i in range(2 * number, min(2 * number + 2, len(loose))):
                    tar.add(loose.path(i), inside + loose.file_name(i))
                    tar.addfile(tarfile.TarInfo(f"{inside}{i}.cls"), io.BytesIO())
        return tmp_path / folder

    return write


def labels(index: DatasetIndex) -> Path:
    return index.annotation_file


def load(index: DatasetIndex, images: Path, check: Any = "present", **options: Any) -> DatasetIndex:
    return load_index(labels(index), images, name="test", check=check, **options)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("check", ["listed", "present", "sound"])
def test_the_index_and_the_pixels_are_those_of_files(form: int, check: str, loose: DatasetIndex, pack: Pack) -> None:
    index = load(loose, pack(form, inside="./"), check)
    assert index.fingerprint == loose.fingerprint
    assert set(index.findings.by_kind) <= {"areas_far"}  # those of the labels
    for i in range(len(loose)):
        assert index.file_name(i) == loose.file_name(i)
        path = index.path(i)
        assert isinstance(path, MemberPath)
        assert path.parts[-2:] == (f"all-{i // 2:02d}.tar", loose.file_name(i))
        assert np.array_equal(read_image(path), read_image(loose.path(i)))
        assert np.array_equal(read_image(pickle.loads(pickle.dumps(path))), read_image(loose.path(i)))
    last = index.subset([4, 1])
    assert np.array_equal(read_image(last.path(0)), read_image(loose.path(4)))


def test_names_of_tar_files(loose: DatasetIndex, pack: Pack, tmp_path: Path) -> None:
    folder = pack()
    everything = [folder / f"all-{number:02d}.tar" for number in range(3)]
    assert shard_files(folder) == everything
    assert shard_files(folder / "all-{00..02}.tar") == everything
    assert shard_files(folder / "all-01.tar") == everything[1:2]
    assert shard_files(loose.path(0).parent) is None
    assert open_shards(loose.path(0).parent) is None
    index = load(loose, folder / "all-{00..02}.tar")
    assert np.array_equal(read_image(index.path(3)), read_image(loose.path(3)))
    with pytest.raises(UserError, match=r"2 of the 5 tar files are missing: all-03\.tar"):
        shard_files(folder / "all-{00..04}.tar")
    with pytest.raises(UserError, match="has 0 numbers"):
        shard_files(folder / "all-{04..02}.tar")
    shutil.copy(loose.path(0), folder)  # then it is a folder of images, in which somebody left archives
    assert shard_files(folder) is None
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "all.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"all\.tar\.gz: is compressed"):
        load(loose, tmp_path / "packed")


def test_sizes_that_the_labels_leave_out_are_read_from_members(loose: DatasetIndex, pack: Pack) -> None:
    content = json.loads(labels(loose).read_text())
    for image in content["images"]:
        del image["height"], image["width"]
    index = load_index(content, pack(), name="test")
    assert (index.heights.tolist(), index.widths.tolist()) == (loose.heights.tolist(), loose.widths.tolist())
    assert index.findings.count("size_missing") == 5


def test_a_missing_member_is_named_or_left_out(loose: DatasetIndex, pack: Pack) -> None:
    folder = pack()
    (folder / "all-01.tar").unlink()
    with pytest.raises(UserError, match=r"2 images without a file.*\(2\.png in none of the 2 tar files of .*shards;"):
        load(loose, folder)
    index = load(loose, folder, skip_missing=True)
    assert [index.file_name(i) for i in range(len(index))] == ["0.png", "1.png", "4.png"]
    assert np.array_equal(read_image(index.path(2)), read_image(loose.path(4)))
    listed = load(loose, folder, "listed")
    with pytest.raises(ImageError, match="no such image"):
        read_image(listed.path(2))


def test_a_member_that_is_spelled_differently_is_found(loose: DatasetIndex, pack: Pack) -> None:
    content = json.loads(labels(loose).read_text())
    for image in content["images"]:
        image["file_name"] = "a\\" + image["file_name"].upper()
    index = load_index(content, pack(inside="a/"), name="test", check="present")
    assert index.findings.count("image_respelled") == 5
    assert np.array_equal(read_image(index.path(4)), read_image(loose.path(4)))


def test_a_member_in_two_tar_files_is_refused_if_it_is_wanted(loose: DatasetIndex, pack: Pack) -> None:
    folder = pack()
    shutil.copy(folder / "all-00.tar", folder / "more.tar")
    with pytest.raises(UserError, match=r"2 images that are in the tar files .*0\.png in all-00\.tar and in more\.tar"):
        load(loose, folder)
    with tarfile.open(folder / "more.tar", "w") as tar:
        for _ in range(2):
            tar.add(loose.path(0), "nobody.png")
    assert load(loose, folder).findings.summary() == ""
    with tarfile.open(folder / "all-00.tar", "a") as tar:
        tar.add(loose.path(0), "1.png")
    with pytest.raises(UnusableLabels, match=r"1\.png in all-00\.tar, twice") as caught:
        load(loose, folder)
    assert caught.value.findings.count("image_member_twice") == 1


def test_a_tar_file_that_is_cut_short_or_damaged_is_named_with_the_member(loose: DatasetIndex, pack: Pack) -> None:
    folder = pack(tarfile.USTAR_FORMAT)
    tar = folder / "all-01.tar"
    whole = tar.read_bytes()
    with tarfile.open(tar) as opened:
        second = opened.getmembers()[2]
    assert second.name == "3.png"
    for end, message in (
        (second.offset_data + 20, r"all-01\.tar: is cut short within the member 3\.png"),
        (second.offset + 100, r"all-01\.tar: is cut short after the member 2\.cls"),
        (second.offset, r"all-01\.tar: is cut short after the member 2\.cls"),
        (0, r"all-01\.tar: is damaged, or no tar file"),
    ):
        tar.write_bytes(whole[:end])
        with pytest.raises(UserError, match=message):
            load(loose, folder)
    tar.write_bytes(whole[: second.offset] + b"x" * 512 + whole[second.offset + 512 :])
    with pytest.raises(UserError, match=r"all-01\.tar: is damaged after the member 2\.cls"):
        load(loose, folder)
    tar.write_bytes(whole)
    index = load(loose, folder)
    tar.write_bytes(whole[: second.offset_data + 20])  # after the index was made
    with pytest.raises(ImageError, match=r"all-01\.tar.3\.png: cannot be read \(the tar file ends after \d+ bytes"):
        read_image(index.path(3))
    tar.unlink()
    with pytest.raises(ImageError, match=r"all-01\.tar.3\.png: no such image"):
        read_image(index.path(3))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_files(workers: int, loose: DatasetIndex, pack: Pack) -> None:
    indices = loose, load(loose, pack())
    found = []
    for index in indices:
        dataset = DetectionDataset(index, Augmentation(shorter_sides=(32, 48), longer_side_max=64), seed=3)
        plan = BatchPlan(index.aspect_ratios, 2, 3)
        found.append(list(training_batches(dataset, plan, first_step=0, last_step=6, workers=workers)))
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours.images, theirs.images)
        assert all(np.array_equal(one, other) for one, other in zip(ours.boxes, theirs.boxes, strict=True))
