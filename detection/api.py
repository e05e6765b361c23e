"""`train` and `evaluate` from Python and notebooks: what tools/train.py and tools/eval_coco.py do.

    from detection import train, evaluate

    run = train("images_and_labels", minutes=10)
    run.ap
    run.detector("street.jpg")
    evaluate(run.weights, "other_images_and_labels").table()

Interrupted (Ctrl-C, the stop button of a notebook), `train` writes a checkpoint; the same call goes on from there.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.common.errors import UserError
from backbones.common.files import user_path
from detection.config_file import quoted
from detection.detector import Detector
from detection.evaluation.average_precision import AveragePrecision
from detection.experiment.config_for_data import name_for
from detection.experiment.evaluate import evaluate_detector
from detection.experiment.model_files import load_detector
from detection.experiment.run_folder import RunFolder
from detection.experiment.stored_configuration import change_stored_config, is_same_folder
from detection.experiment.training_run import run_for_config, run_for_data
from detection.training.distributed import process_group
from detection.training.run_lock import run_lock

if TYPE_CHECKING:
    from detection.experiment.chain import ChainResult

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class TrainedRun:
    """The result of `train`.

    Attributes:
        folder: of the run.
        finished: False if it was interrupted; the same call goes on.
        figures: AP of the detector on the test split; None without one, or if it is not finished.
    """

    folder: Path
    finished: bool
    figures: AveragePrecision | None

    @property
    def weights(self) -> Path:
        """The detector's file, which exists once the run is finished."""
        return RunFolder(self.folder).detector

    @property
    def report(self) -> Path:
        """The page of the evaluation."""
        return RunFolder(self.folder).report

    @property
    def ap(self) -> float | None:
        """COCO's AP on the test split, 0–1; None without `figures` or without objects. `figures` has the others."""
        return None if self.figures is None else self.figures.figures["AP"]

    @functools.cached_property
    def detector(self) -> Detector:
        """The trained detector."""
        return Detector.load(self.weights)

    @classmethod
    def of(cls, result: ChainResult) -> TrainedRun:
        """From the result of the chain."""
        return cls(result.folder.root, result.outcome.finished, result.figures)


def train(
    data: PathLike | None = None,
    *,
    minutes: float | None = None,
    config: PathLike | None = None,
    output: PathLike | None = None,
    init_from: PathLike | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> TrainedRun:
    """Checks the data, trains both networks, and evaluates the detector.

    Args:
        data: the folder of images and labels. Without `config`, a configuration is written for it into the run's
            folder, and used again by a later call.
        minutes: time for everything on this machine; only where a configuration is written.
        config: a configuration's file; `data` is then its data.root.
        output: the folder of the run; by default `runs/<name>` in the current folder.
        init_from: a detector.pt whose weights both networks start from.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        changes: `key.sub=value` texts.

    Raises:
        UserError: the data, the configuration or the folder cannot be used; the message says what to do.
    """
    if config is None:
        if data is None:
            raise UserError("train needs the folder of the data, or config=FILE")
        return TrainedRun.of(
            run_for_data(
                Path(data), output=output, minutes=minutes, init_from=init_from, device=device, changes=changes
            )
        )
    if minutes is not None:
        raise UserError("minutes is for data without a config; change the training.steps of the configuration instead")
    own = list(changes)
    for key, value in (("data.root", data), ("output", output)):
        if value is not None:
            own.append(f"{key}={quoted(os.fspath(value))}")
    return TrainedRun.of(run_for_config(Path(config), init_from=init_from, device=device, changes=own))


def evaluate(
    weights: PathLike,
    data: PathLike | None = None,
    *,
    output: PathLike | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> AveragePrecision:
    """The COCO figures of a detector on its test split, or on that of the data in another folder.

    Args:
        weights: a detector.pt.
        data: another folder of images and labels in any format that is read, with the detector's classes; None: that
            of the training. Of another folder without splits all images are measured.
        output: the folder of results and report; by default `evaluation` beside the weights, and for other data
            `evaluation_<name of the data's folder>`.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        changes: `key.sub=value` texts, such as "data.test.name=val".

    Raises:
        UserError: the detector or the data cannot be used.
    """
    path = user_path(weights)
    trained = load_detector(path)
    own = list(changes)
    if data is not None:
        same = is_same_folder(user_path(data), trained.config.data.root)
        own = [f"data.root={quoted(os.fspath(user_path(data)))}", *own]
        default = "evaluation" if same else f"evaluation_{name_for(user_path(data))}"
    else:
        default = "evaluation"
    folder = path.parent / default if output is None else user_path(output)
    config = change_stored_config(trained.config, path, own)
    limit = 60 * config.runtime.timeout_minutes
    with process_group(device, time_limit=limit) as chosen, run_lock(folder):
        return evaluate_detector(config, trained, chosen, folder, weights=path)
