"""Images in folders: every kind that is read, and nothing that systems leave there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.image_kinds import readable_endings
from detection.data.image_search import find_images


def put(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return [folder / name for name in names]


def test_every_ending_that_is_read_in_any_capitals(tmp_path: Path) -> None:
    endings = sorted(readable_endings())
    assert {".jfif", ".jpe", ".jp2", ".j2k", ".pgm", ".pbm", ".pnm", ".dib", ".apng"} <= set(endings)
    expected = put(tmp_path, *(f"{number:03d}{ending}" for number, ending in enumerate(endings)), "deep/er/x.JPG")
    put(tmp_path, "notes.txt", "a.json", "b.pdf", "Thumbs.db", "desktop.ini", "jpg")
    assert find_images([tmp_path]) == sorted(expected)


def test_hidden_files_and_leftovers_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (own,) = put(tmp_path, "a.jpg")
    put(
        tmp_path,
        "._a.jpg",
        ".hidden.png",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "__MACOSX/._a.jpg",
        "__MACOSX/a.jpg",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        ".git/objects/x.png",
        ".DS_Store",
    )
    with caplog.at_level(logging.INFO):
        assert find_images([tmp_path]) == [own]
    assert "7 hidden files and leftovers of other systems are passed over" in caplog.text


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    hidden, note, _ = put(tmp_path / ".cache", "a.jpg", "notes.txt", ".b.jpg")
    assert find_images([tmp_path / ".cache"]) == [hidden]
    assert find_images([tmp_path / ".cache" / ".b.jpg", note]) == [tmp_path / ".cache" / ".b.jpg", note]


def test_links_that_lead_nowhere_count(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)
    assert find_images([tmp_path]) == [tmp_path / "dangling.jpg"]
    assert find_images([tmp_path / "dangling.jpg"]) == [tmp_path / "dangling.jpg"]


def test_each_once_and_a_folder_left_out(tmp_path: Path) -> None:
    first, second, drawn = put(tmp_path, "a.jpg", "sub/b.jpg", "sub/out/c.jpg")
    assert find_images([first, tmp_path, tmp_path], leave_out=tmp_path / "sub" / "out") == [first, second]
    assert find_images([tmp_path / "sub" / "out"], leave_out=tmp_path / "sub" / "out") == [drawn]
    (tmp_path / "link").symlink_to(tmp_path / "sub" / "out")
    assert find_images([tmp_path], leave_out=tmp_path / "link") == [first, second]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    images, other = tmp_path / "images", tmp_path / "other"
    own, below = put(images, "z/a.jpg", "z/sub/b.jpg")
    put(other, "c.jpg")
    (images / "again").symlink_to(images / "z")  # its own name counts
    (images / "l1").symlink_to(other)
    (images / "l2").symlink_to(other)
    (other / "up").symlink_to(images)
    (images / "self.jpg").symlink_to(images / "self.jpg")
    assert find_images([images]) == [images / "l1" / "c.jpg", images / "self.jpg", own, below]
    for file in (own, below, images / "self.jpg"):
        file.unlink()
    assert find_images([images]) == [images / "l1" / "c.jpg"]


def test_nothing_there(tmp_path: Path) -> None:
    put(tmp_path, "IMG_1.HEIC", "IMG_2.heic", "readme", ".hidden.txt")
    with pytest.raises(UserError, match=r"no images there .*\.jpg.*; of other files there are 2 \.heic, 1 without"):
        find_images([tmp_path])
    with pytest.raises(UserError, match=r"absent\\x1b: no such file or folder"):
        find_images([tmp_path / "absent\x1b"])


def test_a_folder_that_cannot_be_read_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (own, _) = put(tmp_path, "a.jpg", "closed/b.jpg")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # to root, as whom tests often run, everything is permitted
    assert find_images([tmp_path]) == [own]
    assert "closed cannot be read (Permission denied): its images are passed over" in caplog.text
