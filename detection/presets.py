"""The configurations in `configs/`, also of an installed package, and the reasons in their comments.

A path such as configs/modern/base.yaml names a preset wherever there is no file of that name.
"""

from __future__ import annotations

import re
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean

_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of an installed package (setup.py); of a checkout
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>(?: +(?:\"[^\"]*\"|[^#\s]\S*))*) *(?:#\s*(?P<comment>.*))?$")


def preset_path(name: str) -> Path:
    """The file of a preset such as "small/base.yaml".

    Raises:
        UserError: it is neither beside the package nor in it.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{_FOLDERS[-1] / name}: there is no such preset; install the package anew")


def find_config(path: Path, folder: Path = Path()) -> Path:
    """The file of a configuration: `path` from `folder`, or else the preset that a path in configs/ names.

    Raises:
        UserError: a path in configs/ is neither.
    """
    file = folder / path
    if path.parts[:1] != ("configs",) or file.exists():
        return file
    name = path.relative_to("configs").as_posix()
    known = preset_names()
    if name not in known:
        nearest = did_you_mean(name, known) or f"; presets: {', '.join(known)}"
        raise UserError(f"{file}: there is no such file, and no preset {path.as_posix()}{nearest}")
    return preset_path(name)


def preset_names() -> list[str]:
    """The presets' names for `preset_path`."""
    folder = next(filter(Path.is_dir, _FOLDERS), _FOLDERS[-1])
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def comments_of(path: Path) -> dict[str, str]:
    """Full key ("rpn.training.steps") → the comment on its line, also those of the files in `base:`.

    A comment on the line of a section such as `train: {name: train}` stands for all keys below it.
    """
    found: dict[str, str] = {}
    open_keys: list[tuple[int, str]] = []  # (indent, key) of the sections that a line lies in
    for line in path.read_text(encoding="utf-8").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        indent, key = len(match["indent"]), match["key"]
        open_keys = [(depth, name) for depth, name in open_keys if depth < indent] + [(indent, key)]
        if key == "base" and indent == 0:
            found = comments_of(find_config(Path(match["value"].strip()), path.parent)) | found
        elif match["comment"]:
            found[".".join(name for _, name in open_keys)] = match["comment"].strip()
    return found
