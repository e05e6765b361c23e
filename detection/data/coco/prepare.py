"""A folder and a layout → COCO in that folder: missing parts are downloaded, checked and unpacked, and splits built.

Missing parts are determined only from the folder's content (a folder of images is complete if it has COCO's number of
images). So files that were put there in another way are recognised, and a preparation that was killed is resumed by
starting it again. Archives that are downloaded here are in `.archives/` until they are unpacked; archives that the user
put into the folder or into its `archives/` are used where they are, and stay there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.units import in_bytes
from backbones.weights.download import download
from detection.data.coco.archives import unpack
from detection.data.coco.derived_splits import OFFICIAL_COUNTS, Counts, build_splits
from detection.data.coco.layout import MINIVAL, TRAINVAL35K
from detection.data.coco.parts import BASE_URL, LAYOUTS, Archive, Part

FETCHED = ".archives"
KEPT = "archives"
DISK_RESERVE = 200_000_000  # bytes left free for other programs


@dataclass(frozen=True)
class Job:
    """An archive to download, or to use where it is, and the parts to unpack from it.

    Attributes:
        file: where the archive is or will be.
        to_fetch: bytes of it that are missing.
        to_unpack: approximate bytes that unpacking takes on the disk.
    """

    archive: Archive
    parts: tuple[Part, ...]
    file: Path
    to_fetch: int
    to_unpack: int

    @property
    def is_ours(self) -> bool:
        """Whether the archive was downloaded here, and is deleted (or moved to `archives/`) once it is unpacked."""
        return self.file.parent.name == FETCHED


@dataclass(frozen=True)
class Plan:
    """What `carry_out` will do.

    Attributes:
        layout: "2017" or "2014".
        jobs: in the order in which they are done.
        splits_size: approximate bytes that trainval35k and minival take on the disk; 0 if they need not be built.
        leftovers: archives that were unpacked by an earlier run, which was killed before it removed them.
        keep_archives: move archives that were fetched to `archives/` instead of deleting them.
    """

    root: Path
    layout: str
    jobs: tuple[Job, ...]
    splits_size: int
    leftovers: tuple[Archive, ...]
    keep_archives: bool

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.jobs or self.splits_size or self.leftovers)

    @property
    def to_fetch(self) -> int:
        """Bytes to fetch."""
        return sum(job.to_fetch for job in self.jobs)

    def disk_use(self) -> tuple[int, int]:
        """Approximate bytes taken on the disk: the maximum at any time, and at the end (negative: space is freed)."""
        most = now = 0
        for job in self.jobs:
            now += job.to_fetch + job.to_unpack
            most = max(most, now)
            if job.is_ours and not self.keep_archives:
                now -= job.archive.size
        now += self.splits_size
        return max(most, now), now

    def describe(self) -> str:
        """The plan in words, a line for each thing to do."""
        if self.is_done:
            return f"{self.root}: nothing is missing of what was asked for (COCO in the {self.layout} layout)"
        lines = [f"COCO in the {self.layout} layout in {self.root}:"]
        for job in self.jobs:
            source = f"fetch {job.archive.path} ({in_bytes(job.to_fetch)})" if job.to_fetch else f"take {job.file}"
            lines.append(f"  {source} and unpack {', '.join(map(str, job.parts))}")
        if self.splits_size:
            lines.append(f"  build {TRAINVAL35K} and {MINIVAL}")
        lines.extend(f"  put away {FETCHED}/{archive.name}, which is unpacked" for archive in self.leftovers)
        most, end = self.disk_use()
        fate = f"kept in {KEPT}/" if self.keep_archives else "deleted once unpacked"
        lines.append(f"To fetch: {in_bytes(self.to_fetch)}; archives are {fate}.")
        lines.append(f"Disk: {in_bytes(most)} needed on the way, {in_bytes(max(end, 0))} at the end (estimates).")
        return "\n".join(lines)


def make_plan(
    root: Path,
    layout: str = "auto",
    *,
    only_annotations: bool = False,
    keep_archives: bool = False,
    layouts: Mapping[str, tuple[Part, ...]] = LAYOUTS,
) -> Plan:
    """Finds the missing parts in the folder `root` (which need not exist) and plans how to get them. Changes nothing.

    Args:
        layout: "2017", "2014", or "auto" for the one of which fewer bytes are missing (2017 in an empty folder).
        only_annotations: leave the images out.
        keep_archives: do not delete archives that were unpacked.
        layouts: the parts of each layout.

    Raises:
        UserError: `root` is not a folder.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file, where COCO's folder is expected")
    if layout == "auto":
        layout = min(layouts, key=lambda name: _measure_missing(_plan_jobs(root, layouts[name])))
    parts = [part for part in layouts[layout] if not (only_annotations and part.images)]
    jobs = _plan_jobs(root, parts)
    unpacked = {part.archive for part in parts} - {job.archive for job in jobs}
    leftovers = sorted(
        (archive for archive in unpacked if (root / FETCHED / archive.name).is_file()), key=lambda archive: archive.name
    )
    splits_size = 0
    if layout == "2014" and not ((root / TRAINVAL35K).is_file() and (root / MINIVAL).is_file()):
        splits_size = sum(part.size for part in parts if not part.images)
    return Plan(root, layout, jobs, splits_size, tuple(leftovers), keep_archives)


def _plan_jobs(root: Path, parts: Sequence[Part]) -> tuple[Job, ...]:
    missing = {part: size for part in parts if (size := part.missing_bytes(root))}
    jobs = []
    for archive in dict.fromkeys(part.archive for part in missing):
        its_parts = tuple(part for part in missing if part.archive == archive)
        file, to_fetch = _locate(root, archive)
        jobs.append(Job(archive, its_parts, file, to_fetch, sum(missing[part] for part in its_parts)))
    return tuple(jobs)


def _locate(root: Path, archive: Archive) -> tuple[Path, int]:
    """Where an archive is or will be, and how many bytes of it are missing."""
    for file in (root / archive.name, root / KEPT / archive.name):
        if file.is_file() and file.stat().st_size == archive.size:
            return file, 0
    file = root / FETCHED / archive.name
    if file.is_file():
        return file, 0
    partial = file.with_name(file.name + ".partial")  # the download's
    return file, archive.size - (min(partial.stat().st_size, archive.size) if partial.is_file() else 0)


def _measure_missing(jobs: Sequence[Job]) -> int:
    """A measure of the missing parts, in bytes, by which the layout is chosen."""
    return sum(job.to_unpack + job.to_fetch - job.archive.size for job in jobs)


def free_disk_space(folder: Path) -> int:
    """Bytes that this user can write where `folder` is or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def check_disk(plan: Plan, free: int) -> None:
    """Raises UserError if `free` bytes are too few for the plan."""
    most, _ = plan.disk_use()
    if most and most + DISK_RESERVE > free:
        raise UserError(
            f"the disk of {plan.root} is too small: {in_bytes(most + DISK_RESERVE)} are needed, {in_bytes(free)} free "
            f"({in_bytes(plan.to_fetch)} to fetch, the rest for what is unpacked). Make room, or name another"
            f" folder{', or do not keep the archives' if plan.keep_archives else ''}"
        )


def carry_out(
    plan: Plan,
    *,
    base_url: str = BASE_URL,
    expected: Mapping[str, Counts] = OFFICIAL_COUNTS,
    free: Callable[[Path], int] = free_disk_space,
    progress: bool = True,
) -> None:
    """Carries out the plan. If it is killed at any time, a new plan resumes from there.

    Args:
        base_url: where the archives are, if not on COCO's own server.
        expected: the sizes that the splits must have.
        free: the bytes that are free where a folder is or will be.
        progress: report on stderr.

    Raises:
        UserError: the disk is too small (then nothing is downloaded), an archive cannot be obtained or is not the
            expected one, or a file cannot be written.
    """
    check_disk(plan, free(plan.root))
    try:
        for job in plan.jobs:
            _fetch_and_unpack(plan.root, job, base_url, progress)
            _remove_or_keep(plan, job.archive)
        for archive in plan.leftovers:
            _remove_or_keep(plan, archive)
        with contextlib.suppress(OSError):  # it does not exist, or still has files of another layout
            (plan.root / FETCHED).rmdir()
        if plan.splits_size:
            build_splits(plan.root, expected)
    except OSError as error:
        raise UserError(
            f"cannot prepare {plan.root}: {error}. Correct that and run again: it resumes from there"
        ) from error


def _fetch_and_unpack(root: Path, job: Job, base_url: str, progress: bool) -> None:
    archive = job.archive
    url = f"{base_url.rstrip('/')}/{archive.path}"
    download(url, job.file, sha256=archive.sha256, size=archive.size, progress=progress)
    unpack(
        job.file,
        root,
        lambda member: any(part.holds(member) for part in job.parts),
        limit=2 * sum(part.size for part in job.parts),  # the sizes are estimates
        progress=progress,
    )
    for part in job.parts:
        if part.missing_bytes(root):
            raise UserError(f"{job.file} does not hold all of {part}")


def _remove_or_keep(plan: Plan, archive: Archive) -> None:
    file = plan.root / FETCHED / archive.name
    if not file.is_file():  # the user's own, which stays where it is
        return
    if plan.keep_archives:
        kept = plan.root / KEPT / archive.name
        kept.parent.mkdir(exist_ok=True)
        if os.path.lexists(kept):  # and is not the archive: else it would have been used
            raise UserError(
                f"{kept} is another file than {file}, which is to be kept there. Move it away and run again"
            )
        os.replace(file, kept)
    else:
        file.unlink()
