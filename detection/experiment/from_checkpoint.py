"""A checkpoint of a training → the files of a finished training: rpn.pt, or fastrcnn.pt and detector.pt."""

from __future__ import annotations

import logging
from pathlib import Path

from backbones.common.errors import UserError
from backbones.common.files import sha256_of
from detection.experiment.model_files import (
    Trained,
    TrainedDetector,
    load_checkpoint,
    load_rpn,
    save_detector,
    save_fast_rcnn,
    save_rpn,
)
from detection.experiment.run_folder import RunFolder
from detection.networks.rpn import RPN

logger = logging.getLogger(__name__)


def write_network_of(checkpoint: Path, *, rpn_file: Path | None = None, output: Path | None = None) -> list[Path]:
    """Writes the network of a checkpoint and returns the files.

    Args:
        checkpoint: `checkpoint_….pt` or `best.pt` in the folder `rpn/` or `fastrcnn/` of a run.
        rpn_file: the RPN of a detector; by default the run's own `rpn.pt`, if the Fast R-CNN was trained on its
            proposals. Only for a checkpoint of the Fast R-CNN.
        output: folder of the files; by default `<run>/<stage>_after_<steps>`.

    Raises:
        UserError: the checkpoint or the RPN cannot be used, or a file is there already.
    """
    trained = load_checkpoint(checkpoint)
    run, stage = RunFolder(checkpoint.resolve().parent.parent), str(trained.provenance.get("stage"))
    folder = RunFolder(output or run.root / f"{stage}_after_{trained.provenance['steps']}")
    if isinstance(trained.network, RPN):
        if rpn_file is not None:
            raise UserError(f"{checkpoint} is of an RPN: --rpn belongs to a checkpoint of a Fast R-CNN")
        _require_new(folder.rpn)
        save_rpn(folder.rpn, trained)
        return [folder.rpn]
    rpn = _rpn_for(trained.provenance.get("rpn_sha256"), rpn_file, run.rpn, checkpoint)
    _require_new(folder.fast_rcnn, folder.detector)
    save_fast_rcnn(folder.fast_rcnn, trained)
    save_detector(folder.detector, TrainedDetector(rpn, trained))
    return [folder.fast_rcnn, folder.detector]


def _rpn_for(sha256: object, named: Path | None, own: Path, checkpoint: Path) -> Trained[RPN]:
    """The RPN of a detector. One that was not named must be that of the training, by its hash."""
    path = named or own
    if not path.is_file():
        raise UserError(f"{path}: no trained RPN for the detector of {checkpoint}; name one with --rpn")
    if sha256_of(path) != sha256:
        text = f"{path} is not the RPN on whose proposals {checkpoint} was trained"
        if named is None:
            raise UserError(f"{text}; name one with --rpn")
        logger.warning("%s", text)
    return load_rpn(path)


def _require_new(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UserError(f"{path} is there already: choose another folder with --output")
