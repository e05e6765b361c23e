"""A configuration → a trained, evaluated detector: check, RPN, proposals, Fast R-CNN, evaluation, one after the other.

What an earlier call into the same folder finished is not done again: each training resumes from its newest checkpoint,
and a finished one returns at once; without its checkpoints, its network is taken if it fits. The data is checked again
when it or its configuration has changed, and the detector evaluated again when it or the test split has. A call with
another configuration is refused with the keys that differ.

    <run>/chain.json    what was checked and evaluated, and the measured times
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from backbones.common.files import read_json_object, sha256_of, write_json
from detection import config as settings
from detection.config_file import config_to_dict
from detection.evaluation.average_precision import AveragePrecision, ClassAveragePrecision
from detection.experiment import evaluate, stages
from detection.experiment.agreement import config_subset_that_must_match, is_result_of
from detection.experiment.checking import check_splits
from detection.experiment.datasets import has_test_split, open_split, training_images
from detection.experiment.label_location import Which, locate
from detection.experiment.model_files import load_detector, load_fast_rcnn, load_rpn
from detection.experiment.paces import Paces, measure_paces
from detection.experiment.run_folder import RunFolder
from detection.training.checkpoints import Checkpointer
from detection.training.distributed import on_main, world_size
from detection.training.loop import Outcome
from detection.training.run_lock import run_lock

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ChainResult:
    """The end of a chain.

    Attributes:
        outcome: of the last training; not finished if a signal interrupted it.
        folder: the run's folder.
        figures: of the detector on the test split; None without one, or if the training was interrupted.
    """

    outcome: Outcome
    folder: RunFolder
    figures: AveragePrecision | None = None


def train_and_evaluate(config: settings.Config, device: torch.device, *, paces: Paces | None = None) -> ChainResult:
    """Checks the data, trains the RPN, makes its proposals, trains the Fast R-CNN, and evaluates the detector.

    With several ranks, each calls this, inside `detection.training.distributed.process_group`.

    Args:
        paces: times of this configuration that were measured before; None: they are measured, or those of an earlier
            call are taken.

    Raises:
        UserError: the data has defects that are refused, and the errors of `train_rpn`, `train_fast_rcnn` and
            `evaluate_detector`.
    """
    folder = RunFolder.of(config)
    notes = _Notes(folder.root / "chain.json")
    _check(config, notes)
    paces = _paces(config, device, notes, paces, folder)
    after = (None, None) if paces is None else (paces.after_rpn(config), paces.last_evaluation())
    outcome = _rpn(config, device, folder, after[0])
    if outcome.finished:
        outcome = _fast_rcnn(config, device, folder, after[1])
    if not outcome.finished:
        on_main(lambda: logger.info("the same command goes on from there"))
        return ChainResult(outcome, folder)
    if not has_test_split(config.data):
        on_main(lambda: logger.info("data.test names no files: the detector %s is not evaluated", folder.detector))
        return ChainResult(outcome, folder)
    return ChainResult(outcome, folder, _evaluation(config, device, folder, notes))


class _Notes:
    """The content of chain.json: name → a digest of what a step was done on, and its result."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Nothing is lost with a damaged file: the steps are done again.
        self._content = on_main(lambda: read_json_object(path))

    def of(self, name: str, digest: str) -> Any:
        """The result that was noted for the same digest; None if there is none."""
        entry = self._content.get(name)
        return entry.get("result") if isinstance(entry, Mapping) and entry.get("of") == digest else None

    def add(self, name: str, digest: str, result: Any) -> None:
        """Notes a result. Every rank calls this."""
        self._content[name] = {"of": digest, "result": result}
        on_main(lambda: write_json(self._path, self._content))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _fingerprints(config: settings.Config, *splits: Which) -> list[Any]:
    """The fingerprint and the number of images of each split."""
    return [(index.fingerprint, len(index)) for index in (open_split(config.data, which) for which in splits)]


def _check(config: settings.Config, notes: _Notes) -> None:
    """Checks labels and images, unless the same ones were checked before.

    Raises:
        UserError: a training or an evaluation would be refused.
    """
    splits: list[Which] = ["train", "test"] if has_test_split(config.data) else ["train"]
    digest = _digest(_fingerprints(config, *splits), config_to_dict(config.data))
    if notes.of("check", digest):
        return
    sources = {which: locate(config.data, which) for which in splits}

    def check() -> None:
        refused = []
        for verdict in check_splits(config.data, sources):
            if verdict.refused:
                refused.append(verdict.text)
            else:
                logger.info("%s", verdict.text)
        if refused:
            raise UserError("\n".join(refused))

    on_main(check)
    notes.add("check", digest, True)


def _paces(
    config: settings.Config, device: torch.device, notes: _Notes, known: Paces | None, folder: RunFolder
) -> Paces | None:
    """The times of the steps, for the time left; None if nothing is left that is worth measuring."""
    batches = [getattr(config, name).training.images_per_device for name in ("rpn", "fast_rcnn")]
    work = [config_subset_that_must_match(config, "rpn"), config_subset_that_must_match(config, "fast_rcnn")]
    for part, name in zip(work, ("rpn", "fast_rcnn"), strict=True):
        for key in ("steps", "milestones", "schedule", "learning_rate"):
            part[name]["training"].pop(key, None)
    digest = _digest(work, batches, config_to_dict(config.runtime), str(device), world_size())
    if known is None and (stored := notes.of("paces", digest)) is not None:
        with contextlib.suppress(TypeError):  # of another version
            return Paces(**stored)
    if known is None and on_main(folder.rpn.is_file):
        return None
    known = known or measure_paces(config, device)
    notes.add("paces", digest, dataclasses.asdict(known))
    return known


def _rpn(config: settings.Config, device: torch.device, folder: RunFolder, seconds_after: float | None) -> Outcome:
    def fits() -> bool:
        index = training_images(config.data, open_split(config.data, "train"))
        return is_result_of(load_rpn(folder.rpn), config, index, "rpn")

    if on_main(lambda: _is_left_alone(folder.rpn, folder.rpn_training)) and _all_agree(fits):
        return _taken(folder.rpn, config.rpn.training)
    return stages.train_rpn(config, device, resume=True, seconds_after=seconds_after)


def _fast_rcnn(
    config: settings.Config, device: torch.device, folder: RunFolder, seconds_after: float | None
) -> Outcome:
    def fits() -> bool:
        index = training_images(config.data, open_split(config.data, "train"))
        trained = load_fast_rcnn(folder.detector)
        return trained.provenance.get("rpn_sha256") == sha256_of(folder.rpn) and is_result_of(
            trained, config, index, "fast_rcnn"
        )

    if on_main(lambda: _is_left_alone(folder.detector, folder.fast_rcnn_training)) and _all_agree(fits):
        return _taken(folder.detector, config.fast_rcnn.training)
    return stages.train_fast_rcnn(config, device, resume=True, seconds_after=seconds_after)


def _is_left_alone(artifact: Path, training: Path) -> bool:
    """Whether the result of a training is there without its checkpoints."""
    return artifact.is_file() and Checkpointer(training, {}).latest() is None


def _all_agree(fits: Callable[[], bool]) -> bool:
    """Whether an artifact fits; one that cannot be read does not. Every rank opens the data, and rank 0 decides."""
    try:
        answer = fits()
    except UserError as error:
        logger.info("%s", error)
        answer = False
    return on_main(lambda: answer)


def _taken(path: Path, training: settings.Training) -> Outcome:
    on_main(lambda: logger.info("%s is there and fits: not trained again", path))
    return Outcome(training.steps, first_step=training.steps)


def _evaluation(config: settings.Config, device: torch.device, folder: RunFolder, notes: _Notes) -> AveragePrecision:
    sizes = {key: getattr(config.data, key) for key in ("test_shorter_side", "test_longer_side", "test_flip")}
    values = config_to_dict(config)
    limits = [values["rpn"]["test_proposals"], {k: v for k, v in values["fast_rcnn"].items() if k != "training"}]
    digest = _digest(
        on_main(lambda: sha256_of(folder.detector)),
        _fingerprints(config, "test"),
        sizes,
        limits,
        config.runtime.precision,
    )
    earlier = notes.of("evaluation", digest)
    if earlier is not None and on_main(folder.report.is_file):
        with contextlib.suppress(TypeError, KeyError):  # of another version
            figures = AveragePrecision(
                **{**earlier, "classes": [ClassAveragePrecision(**one) for one in earlier["classes"]]}
            )
            on_main(lambda: logger.info("%s is of this detector and data: not evaluated again", folder.evaluation))
            return figures
    with run_lock(folder.evaluation):
        figures = evaluate.evaluate_detector(
            config, load_detector(folder.detector), device, folder.evaluation, weights=folder.detector
        )
    notes.add("evaluation", digest, dataclasses.asdict(figures))
    return figures
