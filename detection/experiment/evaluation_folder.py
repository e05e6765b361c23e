"""An evaluation folder → a record of its data set and of the files that evaluations wrote; others are refused there.

dataset.json         the annotation file that the folder's figures were computed on, its fingerprint, the images' number
                     and a hash of their ids, and the folder's files
ground_truth.json    the images and objects that AP was computed on, in COCO's format
results.json         the detections

Detections are measured again, by `ground_truth_of_results`, on the images that the evaluation measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backbones.common.errors import UserError
from backbones.common.files import read_json_object, require_plain_file, write_json
from backbones.common.text import printable
from detection.data.index import DatasetIndex
from detection.evaluation.ground_truth import GroundTruth
from detection.experiment.agreement import describe_image_set
from detection.experiment.ground_truth_loading import load_ground_truth
from detection.training.distributed import on_main

NAME = "dataset.json"
GROUND_TRUTH = "ground_truth.json"
RESULTS = "results.json"
_SIZE_LIMIT = 1 << 20  # bytes; another program's file of this name may hold a whole data set


def claim_folder(folder: Path, index: DatasetIndex, files: Sequence[str]) -> None:
    """Creates the folder if missing, and records the data set that it belongs to and the files that will be written.
    Every rank calls this.

    files: the names of the files, relative to the folder. Those that earlier evaluations recorded may be replaced.

    Raises:
        UserError: it holds the evaluation of another data set or of other images, or one of these files that no
            evaluation wrote; or it cannot be written.
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
    images = describe_image_set(index.image_ids)
    if found.get("images", images) != images:
        raise UserError(
            f"{folder}: holds the evaluation of other images of {found.get('annotations')} (their number: "
            f"{found['images']}; now: {images}); for these {remedy.format('that one')}"
        )
    # Evaluations of earlier versions did not record their images, and those before them not their files.
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
        "images": images,
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


def read_record(folder: Path) -> dict[str, Any]:
    """What the evaluation in a folder recorded of its data set.

    Raises:
        UserError: the folder holds no evaluation of a detector, or one of an earlier version without a record.
    """
    if (folder / RESULTS).is_file() and not (folder / NAME).exists():
        raise UserError(
            f"{folder}: its evaluation is of an earlier version, which did not record the test set ({NAME}); "
            f"{_again(folder)} (move the folder away first)"
        )
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if not (folder / RESULTS).is_file() or not isinstance(content, dict):
            raise ValueError(f"{RESULTS} is missing")
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: holds no evaluation ({error}); run tools/eval_coco.py first") from error
    return content


def ground_truth_of_results(results: Path, annotations: Path | None = None) -> GroundTruth:
    """The images and objects that detections are measured by.

    Args:
        results: a results file. Of that of an evaluation, it is known which images it is of.
        annotations: their COCO annotation file; None: what the evaluation that wrote the results has recorded.

    Raises:
        UserError: none are named or recorded, they cannot be used, or they list other images than the evaluation
            measured.
    """
    folder = results.parent
    record = _read(folder / NAME) if results.name == RESULTS else {}
    own = folder / GROUND_TRUTH
    if annotations is None and not record:
        raise UserError(f"{results}: no evaluation recorded its ground truth; name the annotation file (--annotations)")
    if annotations is not None or own.is_file():
        truth = load_ground_truth(annotations or own)
    else:
        try:
            truth = load_ground_truth(Path(str(record.get("annotations"))))
        except UserError as error:
            raise UserError(f"{error}\n{folder}: has no {GROUND_TRUTH}; {_again(folder)} and writes it") from error
    if record:
        listed, measured = describe_image_set(truth.image_ids), record.get("images")
        if measured is None:  # of an earlier version, where a part of the images is recognised by its number
            listed, measured = str(len(truth.image_ids)), str(_images_measured(folder) or "not recorded")
        if listed != measured:
            raise UserError(
                f"{truth.source}: lists other images than {folder} was evaluated on "
                f"(their number: {listed}; evaluated: {measured}); "
                + ("leave --annotations out" if own.is_file() else f"{_again(folder)} and writes {GROUND_TRUTH}")
            )
    return truth


def _images_measured(folder: Path) -> int | None:
    number = read_json_object(folder / "figures.json").get("images")
    return number if isinstance(number, int) else None


def _again(folder: Path) -> str:
    return f"tools/eval_coco.py --weights {folder.parent / 'detector.pt'} evaluates anew"
