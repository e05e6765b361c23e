"""Atomic writing: the whole new file or the old one, and an error for people where the disk does not take it."""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite, atomic_write, require_plain_file, sha256_of, user_path


def test_the_file_is_whole_and_has_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with atomic_write(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert os.listdir(path.parent) == ["x.txt"]


def test_the_temporary_path_has_the_ending_that_is_asked_for(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x.mp4", ending=".tmp.mp4") as temporary:
        assert temporary.name.endswith(".tmp.mp4")
        temporary.write_text("content")
    assert os.listdir(tmp_path) == ["x.mp4"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), UserError("x")])
def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_device_that_is_full_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(CannotWrite) as caught, atomic_write(path), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"new")
    assert str(caught.value) == f"{path} cannot be written: No space left on device. " + (
        "Free space or choose another output folder."
    )
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, OSError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotWrite, match=r"file/x\.txt cannot be written: "),
        atomic_write(tmp_path / "file" / "x.txt"),
    ):
        pass
    with pytest.raises(CannotWrite, match="cannot be written"), atomic_write(Path("/proc/nothing/x.txt")):
        pass


WRITER = """
import sys, time
from pathlib import Path
from backbones.common.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_with_the_next_and_what_a_living_one_writes_stays(
    tmp_path: Path, repository: Path
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        [half] = tmp_path.glob(".*.tmp")
        with atomic_write(path) as temporary:
            temporary.write_text("while another writes")
        assert half.read_text() == "half"
        process.kill()
    assert path.read_text() == "while another writes"
    assert half.read_text() == "half"
    with atomic_write(path) as temporary:
        assert temporary.stat().st_size == 0
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".x.txt.tmp").symlink_to("precious")
    with atomic_write(tmp_path / "x.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "x.txt").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "precious"


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "x.txt"):
        (tmp_path / "source").read_text()
    assert not isinstance(caught.value, UserError)


def test_what_is_no_file_is_told_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert require_plain_file(tmp_path / "file").st_size == require_plain_file(tmp_path / "link").st_size == 3
    os.mkfifo(tmp_path / "pipe")
    kinds = {tmp_path: "a directory", tmp_path / "pipe": "a pipe", Path("/dev/null"): "a device"}
    for path, kind in kinds.items():
        with pytest.raises(UserError, match=f"{path} is {kind}, not a file"):
            require_plain_file(path)
    with pytest.raises(FileNotFoundError):
        require_plain_file(tmp_path / "absent")


def test_the_sha256_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than is read at a time
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_tilde_is_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a/~b") == tmp_path / "a" / "~b"
    assert user_path("a/~") == Path("a/~")
    assert user_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
