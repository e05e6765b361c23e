"""A zip archive → its files in a folder; an archive that would write outside of the folder is refused.

Before the first byte is written, every member of the archive is checked: the whole archive is refused if it has a name
that leads out of the folder, a link, a device, an encrypted or repeated member, or more bytes than expected; or if an
existing file would be overwritten that has other content than the archive's. A file is renamed to its final name only
after it is complete and on the disk, so unpacking may be killed at any time (even by a power cut) and started again:
existing files with the archive's size and CRC-32 are kept.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.progress import ByteProgress
from backbones.common.units import in_bytes

CHUNK = 1 << 20
FLUSH_EVERY = 512 << 20  # bytes written between two flushes of the disk
UNFINISHED = ".unpacking"  # the suffix of a file's name until it is complete on the disk
# The errors that zipfile raises for damaged archives and other files; found by flipping bytes in some.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def unpack(
    archive: Path,
    root: Path,
    wanted: Callable[[str], bool],
    *,
    limit: int,
    progress: bool = True,
    flush_every: int = FLUSH_EVERY,
) -> int:
    """Unpacks the wanted files of `archive` below the folder `root`.

    A file that is there already is kept if its content is the archive's, and replaced if it is only the beginning of
    that, as an interrupted program leaves it. If there is any other file, nothing is unpacked.

    Args:
        archive: a zip file.
        root: where the member `a/b.jpg` becomes `root/a/b.jpg`.
        wanted: whether to unpack a member, by its name.
        limit: bytes that the wanted files may have together, unpacked. No file gets larger than the archive states.
        progress: report on stderr.
        flush_every: bytes after which the disk is flushed and the files so far get their names.

    Returns:
        How many files were written (the others were there already).

    Raises:
        UserError: the archive is unsafe or damaged (nothing unsafe was written), a file is another than the archive's,
            or a file cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in _safe_members(opened, archive, root) if wanted(member.filename)]
            total = sum(member.file_size for member in members)
            if total > limit:
                raise UserError(
                    f"{archive} is not unpacked: it would have {in_bytes(total)}, the limit is {in_bytes(limit)}"
                )
            report = ByteProgress(archive.name, enabled=progress)
            report.say(f"{len(members)} files, {in_bytes(total)}; checking which of them are there")
            missing = [member for member in members if not _is_unpacked(member, root / member.filename)]
            _refuse_others(opened, missing, archive, root)
            report.say(f"unpacking {len(missing)} files; {len(members) - len(missing)} are there")
            report.begin(0, sum(member.file_size for member in missing))
            try:
                _unpack(opened, missing, root, report, flush_every)
            finally:
                report.end()
            return len(missing)
    except _DAMAGE as error:
        raise UserError(f"{archive} is damaged: {error}. Delete it and run again") from error
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive} into {root}: {error}. Correct that and run again: it resumes from there"
        ) from error


def _unpack(
    opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], root: Path, report: ByteProgress, flush_every: int
) -> None:
    unflushed, position = 0, 0
    waiting: list[Path] = []  # written, but perhaps not on the disk yet
    try:
        for member in members:
            target = root / member.filename
            waiting.append(target)
            _write(opened, member, _unfinished(target))
            unflushed += member.file_size
            if unflushed >= flush_every:
                _give_names(waiting)
                waiting, unflushed = [], 0
            position += member.file_size
            report.advance_to(position)
        _give_names(waiting)
    except BaseException:
        for target in waiting:
            _unfinished(target).unlink(missing_ok=True)
        raise


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(member) as source, path.open("wb") as file:
        while chunk := source.read(CHUNK):  # ends at the declared size, with BadZipFile if the CRC is another there
            file.write(chunk)
        if file.tell() != member.file_size:
            raise zipfile.BadZipFile(f"{member.filename} ends after {file.tell()} of {member.file_size} bytes")


def _is_unpacked(member: zipfile.ZipInfo, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != member.file_size:
        return False
    crc = 0
    with target.open("rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _refuse_others(opened: zipfile.ZipFile, missing: list[zipfile.ZipInfo], archive: Path, root: Path) -> None:
    """Raises a UserError if one of the files that are to be unpacked is there, and is not the beginning of it."""
    others = [
        member.filename
        for member in missing
        if os.path.lexists(root / member.filename) and not _is_beginning(opened, member, root / member.filename)
    ]
    if others:
        raise UserError(
            f"{archive} is not unpacked: it would overwrite {len(others)} files in {root} with other content, such as "
            f"{others[0]}. Move them away and run again, or name another folder (--data)"
        )


def _is_beginning(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> bool:
    """Whether the file is cut short."""
    if target.is_symlink() or not target.is_file() or target.stat().st_size >= member.file_size:
        return False
    with target.open("rb") as file, opened.open(member) as whole:
        while chunk := file.read(CHUNK):
            if whole.read(len(chunk)) != chunk:
                return False
    return True


def _unfinished(target: Path) -> Path:
    return target.with_name(target.name + UNFINISHED)


def _give_names(targets: list[Path]) -> None:
    """Flushes the disk once, then renames many files: one flush for each of COCO's 118,287 would take hours."""
    if not targets:
        return
    if hasattr(os, "sync"):  # not on Windows
        os.sync()
    for target in targets:
        os.replace(_unfinished(target), target)


def _safe_members(opened: zipfile.ZipFile, archive: Path, root: Path) -> list[zipfile.ZipInfo]:
    """The archive's files, without folders. Raises UserError if any member, wanted or not, is unsafe."""
    real_root = root.resolve()
    names: set[str] = set()
    parents: set[Path] = set()
    files = []
    for member in opened.infolist():
        if fault := _describe_fault(member):
            raise UserError(f"{archive} is not unpacked: its member {member.orig_filename!r} {fault}")
        if member.is_dir():
            continue
        if member.filename in names:
            raise UserError(f"{archive} is not unpacked: it holds {member.filename!r} twice")
        names.add(member.filename)
        parents.add((root / member.filename).parent)
        files.append(member)
    for parent in parents:
        if not parent.resolve().is_relative_to(real_root):
            raise UserError(
                f"{archive} is not unpacked: {parent} is a link that leads out of {root}. Replace the link by a folder"
            )
    return files


def _describe_fault(member: zipfile.ZipInfo) -> str | None:
    """Why a member is unsafe, in words; None if it is not."""
    name = member.orig_filename  # as stored; `filename` ends at a NUL byte and has the separators changed on Windows
    if re.search(r"[\\:\x00-\x1f]", name):
        return "has a character in its name that leads elsewhere on some systems"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "has a name that leads out of the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0: the archive was not made on Unix, or does not say
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is encrypted or packed by an unusual method"
    return None
