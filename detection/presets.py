"""The configurations in `configs/`, also of an installed package, and the reasons in their comments."""

from __future__ import annotations

import re
from pathlib import Path

from backbones.common.errors import UserError

_PACKAGE = Path(__file__).resolve().parent
_FOLDERS = (_PACKAGE.parent / "configs", _PACKAGE / "configs")  # of a checkout; of an installed package (setup.py)
_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>(?: +(?:\"[^\"]*\"|[^#\s]\S*))*) *(?:#\s*(?P<comment>.*))?$")


def preset_path(name: str) -> Path:
    """The file of a preset such as "small/base.yaml".

    Raises:
        UserError: it is neither beside the package nor in it.
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{_FOLDERS[0] / name}: there is no such preset; install the package anew")


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
            found = comments_of(path.parent / match["value"].strip()) | found
        elif match["comment"]:
            found[".".join(name for _, name in open_keys)] = match["comment"].strip()
    return found
