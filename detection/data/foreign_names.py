r"""Image names in labels that come from another disk, or lack their ending → the files here that they mean.

Labelling tools write the path that an image had where it was labelled (`C:\Users\me\train\a.jpg`), a path of their
server (`/data/upload/7/a.jpg`), or the name without its ending. Names that differ in spelling alone are left to
`file_names`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

from detection.data.file_names import leads_out, spelling_key
from detection.data.findings import Findings
from detection.data.image_kinds import readable_endings
from detection.data.split_words import split_of


class ImageFiles:
    """The image files of a folder, to be found by parts of their names.

    files: names relative to the folder, with "/" between folders. Those of other kinds are left out.
    """

    def __init__(self, files: Iterable[str]) -> None:
        self.files = {file for file in files if is_image_name(file)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for file in sorted(self.files):
            name = spelling_key(file).rsplit("/", 1)[-1]
            self._by_name[name].append(file)
            self._by_stem[name.rpartition(".")[0]].append(file)

    def meant_by(self, name: str, near: str = "") -> str | None:
        """The only file that a name from another disk can mean: the one that shares most of the path's end, and among
        several the one whose folders share most with the path `near`, that of the labels."""
        return _nearest(spelling_key(name), self._by_name.get(_last(name), []), spelling_key, near)

    def of_stem(self, name: str, near: str = "") -> str | None:
        """The only file with a name's path and another ending, or with an ending where the name has none; among
        several as in `meant_by`."""
        for stem in (spelling_key(name), _without_ending(spelling_key(name))):
            files = self._by_stem.get(stem.rsplit("/", 1)[-1], [])
            if files:
                return _nearest(stem, files, lambda file: _without_ending(spelling_key(file)), near)
        return None


def is_image_name(name: str) -> bool:
    """Whether a file's name has an ending of an image that is read."""
    return "." + name.rpartition(".")[2].lower() in readable_endings()


def resolve_names(names: Sequence[str], files: ImageFiles, findings: Findings, near: str = "") -> list[str]:
    """The names, those of another disk or without the file's ending replaced by the file meant, and counted.

    A name whose file is not plain is kept; if it leads out of the folder, only its last part is. near: the path of the
    labels, which decides between equal names in several folders.

    >>> resolve_names(["C:\\\\me\\\\b\\\\x.jpg"], ImageFiles(["a/x.jpg", "b/x.jpg"]), Findings())
    ['b/x.jpg']
    """
    by_spelling = {spelling_key(file) for file in files.files}
    return [_resolved(name, files, by_spelling, findings, near) for name in names]


def _resolved(name: str, files: ImageFiles, by_spelling: set[str], findings: Findings, near: str) -> str:
    outside = leads_out(name)
    if name in files.files or (not outside and spelling_key(name) in by_spelling):
        return name
    plain = outside or "/" in name or "\\" in name  # where there is a folder, it is another disk's
    for kind, file in (("image_elsewhere", files.meant_by(name, near)), ("image_ending", files.of_stem(name, near))):
        if file is not None:
            if plain or kind == "image_ending":
                findings.add(kind, 1, [f"{name} → {file}"])
            return file
    return _last_part(name) or "?" if outside else name


def _nearest(key: str, files: Sequence[str], key_of: Callable[[str], str], near: str) -> str | None:
    """The file that shares most parts at the end of the path `key`, and then most folders with the path `near`; None
    if several are equal in both, or if the only one, equal in its name alone, lies in the folder of another split than
    the one that `near` names."""
    wanted = PurePosixPath(key).parts[::-1]
    folders = set(PurePosixPath(near.lower()).parts)

    def score(file: str) -> tuple[int, int]:
        parts = PurePosixPath(key_of(file)).parts[::-1]
        same = [own == other for own, other in zip(wanted, parts, strict=False)]
        return (same.index(False) if False in same else len(same)), len(folders & set(parts[1:]))

    own_split = split_of(near)
    scores = []
    for file in files:
        shared, alike = score(file)
        other_split = split_of(file.rpartition("/")[0])
        stranger = shared < 2 and own_split is not None and other_split is not None and own_split != other_split
        scores.append((-1, 0) if stranger and "trainval" not in (own_split, other_split) else (shared, alike))
    best = max(scores, default=(-1, 0))
    if best[0] < 0:
        return None
    return files[scores.index(best)] if scores.count(best) == 1 else None


def _last(name: str) -> str:
    return spelling_key(name).rsplit("/", 1)[-1]


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _without_ending(key: str) -> str:
    """A key without its file's ending; a dot within a folder's name is none."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name)
