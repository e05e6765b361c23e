from __future__ import annotations

import os
import resource
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from backbones.common.errors import UserError
from detection.data.coco.archives import unpack

PLENTY = 100_000_000


def everything(_: str) -> bool:
    return True


def make_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_unpacks_what_is_wanted(tmp_path: Path, method: int) -> None:
    members = {"a/": b"", "a/1.jpg": b"x" * 3_000_000, "a/2.jpg": b"", "b/3.jpg": b"y"}
    archive = make_zip(tmp_path / "a.zip", members, method)
    root = tmp_path / "root"
    assert unpack(archive, root, lambda name: name.startswith("a/"), limit=PLENTY, progress=False) == 2
    assert tree(root) == {"a/1.jpg": b"x" * 3_000_000, "a/2.jpg": b""}


@pytest.mark.parametrize("flush_every", [1, 2500, PLENTY])
def test_only_what_is_missing_or_cut_short_is_written(tmp_path: Path, flush_every: int) -> None:
    members = {f"a/{i}.jpg": bytes([i]) * 1000 for i in range(9)}
    archive = make_zip(tmp_path / "a.zip", members)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/0.jpg").write_bytes(members["a/0.jpg"])
    (root / "a/1.jpg").write_bytes(members["a/1.jpg"][:700])
    (root / "a/2.jpg").touch()
    (root / "a/mine.txt").write_bytes(b"not the archive's")
    before = (root / "a/0.jpg").stat()

    def go() -> int:
        return unpack(archive, root, everything, limit=PLENTY, progress=False, flush_every=flush_every)

    assert go() == 8
    assert tree(root) == {**members, "a/mine.txt": b"not the archive's"}
    after = (root / "a/0.jpg").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert go() == 0


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/evil", "a//evil", "./evil", "a/..", "..\\evil", "C:/evil", "a\nb"],
)
def test_names_that_lead_out_refuse_the_archive(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/good.jpg": b"good", name: b"evil"})
    with pytest.raises(UserError, match="not unpacked"):
        unpack(archive, tmp_path / "sub" / "root", everything, limit=PLENTY, progress=False)
    assert tree(tmp_path).keys() == {"a.zip"}


def test_a_name_cut_at_a_nul_byte_refuses_the_archive(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/name#.jpg": b"x"})
    archive.write_bytes(archive.read_bytes().replace(b"name#", b"name\0"))
    with pytest.raises(UserError, match="not unpacked"):
        unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_refuse_the_archive(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/good.jpg", b"good")
        member = zipfile.ZipInfo("a/link")
        member.external_attr = (kind | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(UserError, match=r"'a/link' is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "root", everything, limit=PLENTY, progress=False)
    assert not (tmp_path / "root").exists()


def test_a_folder_that_is_a_link_out_of_the_root_is_not_written_through(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"x"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link that leads out"):
        unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("content", [b"same size".ljust(1000), b"shorter", b"longer".ljust(1001), b"1" * 1001])
def test_other_files_are_not_overwritten(tmp_path: Path, content: bytes) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/0.jpg": b"0" * 1000, "a/1.jpg": b"1" * 1000, "a/2.jpg": b"2"})
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/1.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"would overwrite 1 files in .*root .* such as a/1\.jpg\. Move them away"):
        unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False)
    assert tree(tmp_path / "root") == {"a/1.jpg": content}


@pytest.mark.parametrize("there", [b"from the archive", b"precious", b"from", None])
def test_a_file_that_is_a_link_is_neither_replaced_nor_written_through(tmp_path: Path, there: bytes | None) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"from the archive"})
    if there is not None:
        (tmp_path / "mine").write_bytes(there)
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/1.jpg").symlink_to(tmp_path / "mine")
    if there == b"from the archive":
        assert unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False) == 0
    else:
        with pytest.raises(UserError, match="would overwrite 1 files"):
            unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False)
    assert (tmp_path / "root/a/1.jpg").is_symlink()
    assert there is None or (tmp_path / "mine").read_bytes() == there


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_refuses_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.jpg", b"one")
        archive.writestr("a/1.jpg", b"two")
    with pytest.raises(UserError, match="twice"):
        unpack(tmp_path / "a.zip", tmp_path / "root", everything, limit=PLENTY, progress=False)


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    assert archive.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"it would have 10.0 MB"):
        unpack(archive, tmp_path / "root", everything, limit=9_999_999, progress=False)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("declared", [10, 5_000_000, 20_000_000])
def test_a_size_that_is_a_lie_leaves_nothing(tmp_path: Path, declared: int) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"\0" * 10_000_000}, zipfile.ZIP_DEFLATED)
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<L", 10_000_000), struct.pack("<L", declared)))
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path / "root", everything, limit=declared, progress=False)
    assert not tree(tmp_path / "root")


def test_a_damaged_archive_is_refused_and_earlier_files_stay_whole(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"1" * 1000, "a/2.jpg": b"2" * 1000})
    archive.write_bytes(archive.read_bytes().replace(b"2222", b"2322", 1))
    with pytest.raises(UserError, match=r"a\.zip is damaged"):
        unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False, flush_every=1)
    assert tree(tmp_path / "root") == {"a/1.jpg": b"1" * 1000}
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match="damaged"):
        unpack(archive, tmp_path / "root", everything, limit=PLENTY, progress=False)


def test_a_disk_that_takes_no_more_leaves_no_half_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a/1.jpg": b"1" * 1000, "a/2.jpg": b"2" * 100_000})
    root = tmp_path / "root"
    child = os.fork()
    if child == 0:  # files larger than this fail as on a full disk, in this process alone
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            unpack(archive, root, everything, limit=PLENTY, progress=False, flush_every=1)
        except UserError as error:
            os._exit(7 if "Correct that and run again" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert tree(root) == {"a/1.jpg": b"1" * 1000}
    assert unpack(archive, root, everything, limit=PLENTY, progress=False) == 1
    assert tree(root) == {"a/1.jpg": b"1" * 1000, "a/2.jpg": b"2" * 100_000}
