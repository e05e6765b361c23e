"""The folder of an evaluation belongs to one data set; the evaluation of another one is refused there.

dataset.json    the annotation file that the folder's figures are of, and its fingerprint
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
    """Writes into the folder, which is made if missing, which data set it belongs to. Every rank calls this.

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
