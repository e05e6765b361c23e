"""The configuration in a file of ours → the one that a tool works by, when it was given that file and no other.

The file may come from anywhere, so that nothing in it decides where anything is written or drawn: only the command line
does, and the place of the file itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from detection import config as settings
from detection.common.core_yaml import parse_yaml
from detection.experiment.agreement import change_trained

_PATHS = tuple(f"data.{which}.{key}" for which in ("train", "test") for key in ("annotations", "images"))


def change_stored_config(stored: settings.Config, file: Path, changes: Sequence[str]) -> settings.Config:
    """The configuration of a weight or proposal file with the command line's changes.

    `output` is the file's own folder. A demo's images are read where they are, and not drawn where they are missing.
    `data.<split>.annotations` and `.images` in `changes` are relative to the working directory, where they are typed;
    if `data.root` is typed as well, to that, as in a configuration's file.

    Raises:
        UserError: a change cannot be made, or is of a value that is fixed by training.
    """
    data = stored.data
    if data.layout == "demo":
        data = dataclasses.replace(data, layout="files", train=_of_demo(data.train), test=_of_demo(data.test))
    stored = dataclasses.replace(stored, output=str(file.parent), data=data)
    if not any(text.partition("=")[0].strip() == "data.root" for text in changes):
        changes = [_absolute(text) for text in changes]
    return change_trained(stored, changes, file)


def _absolute(text: str) -> str:
    key, equals, value = text.partition("=")
    if key.strip() not in _PATHS:
        return text
    path = parse_yaml(value, text)
    if not isinstance(path, str):
        return text
    quoted = str(Path.cwd() / path).replace("'", "''")
    return f"{key}{equals}'{quoted}'"


def _of_demo(split: settings.Split) -> settings.Split:
    if split.annotations is not None or split.images is not None:
        return split
    return dataclasses.replace(split, annotations=f"annotations/instances_{split.name}.json", images=split.name)
