"""An evaluation folder and a data set → a file that ties the folder to the data set; another data set is refused there.

dataset.json    the annotation file that the folder's figures were computed on, and its fingerprint
"""

from __future__ import annotations

import json
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.files import atomic_write
from detection.data.index import DatasetIndex
from detection.training.distributed import on_main

NAME = "dataset.json"


def claim_folder(folder: Path, index: DatasetIndex) -> None:
    """Creates the folder if missing, and writes the data set that it belongs to. Every rank calls this.

    Raises:
        UserError: it holds the evaluation of another one, or cannot be written.
    """
    on_main(lambda: _claim(folder / NAME, index))


def _claim(path: Path, index: DatasetIndex) -> None:
    own = {"annotations": str(index.annotation_file), "fingerprint": index.fingerprint}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.get("fingerprint") != own["fingerprint"]:
        raise UserError(
            f"{path.parent}: holds the evaluation of another data set ({found.get('annotations')}); for "
            f"{index.annotation_file} name another folder (--output), or move that one away"
        )
    if found != own:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(own, indent=2) + "\n", encoding="utf-8")
