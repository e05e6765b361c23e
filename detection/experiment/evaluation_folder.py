"""An evaluation folder → a record of its data set and of the files that evaluations wrote; others are refused there.

dataset.json    the annotation file that the folder's figures were computed on, its fingerprint, and the folder's files
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import read_json_object, require_plain_file, write_json
from backbones.common.text import printable
from detection.data.index import DatasetIndex
from detection.training.distributed import on_main

NAME = "dataset.json"
_SIZE_LIMIT = 1 << 20  # bytes; another program's file of this name may hold a whole data set


def claim_folder(folder: Path, index: DatasetIndex, files: Sequence[str]) -> None:
    """Creates the folder if missing, and records the data set that it belongs to and the files that will be written.
    Every rank calls this.

    files: the names of the files, relative to the folder. Those that earlier evaluations recorded may be replaced.

    Raises:
        UserError: it holds the evaluation of another data set, or one of these files that no evaluation wrote; or it
            cannot be written.
    """
    on_main(lambda: _claim(folder, index, files))


def _claim(folder: Path, index: DatasetIndex, files: Sequence[str]) -> None:
    remedy = "name another folder (--output), or move {} away"
    found = _read(folder / NAME)
    if found.get("fingerprint", index.fingerprint) != index.fingerprint:
        raise UserError(
            f"{folder}: holds the evaluation of another data set ({found.get('annotations')}); for "
            f"{index.annotation_file} {remedy.format('that one')}"
        )
    # An evaluation of an earlier version did not record its files.
    recorded = (*found.get("files", files), NAME) if found else ()
    for name in (*files, NAME):
        if name not in recorded and os.path.lexists(folder / name):
            raise UserError(
                f"{printable(str(folder / name))}: would be overwritten, and no record says that an evaluation wrote "
                f"it; {remedy.format('it')}"
            )
    own = {
        "annotations": str(index.annotation_file),
        "fingerprint": index.fingerprint,
        "files": sorted({*found.get("files", ()), *files}),
    }
    if found != own:
        write_json(folder / NAME, own)


def _read(path: Path) -> dict[str, Any]:
    """What an evaluation recorded; empty if there is no such file, or another program wrote it."""
    try:
        if require_plain_file(path).st_size > _SIZE_LIMIT:
            return {}
    except (UserError, OSError):
        return {}
    content = read_json_object(path)
    if not isinstance(content.get("fingerprint"), str):
        return {}
    files = content.get("files", [])
    return content if isinstance(files, list) and all(isinstance(name, str) for name in files) else {}
