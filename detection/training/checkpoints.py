"""The state of a run ↔ a folder of checkpoints, written atomically, verified, and complete: a resumed run gives the
same bits.

    <folder>/checkpoint_00000500.pt    after 500 steps; the newest `keep` of them stay
    <folder>/best.pt                   that of the best evaluation, if `keep_best` is set
    <folder>/*.damaged                 a checkpoint that failed its checksum, renamed

All ranks of a run share the folder: rank 0 writes, all ranks read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backbones.common.errors import UserError
from detection.training.artifacts import DamagedFile, load_artifact, save_artifact
from detection.training.averaging import WeightAverage
from detection.training.best import Best
from detection.training.consensus import flat
from detection.training.distributed import gather_objects, is_main, on_main, rank, world_size
from detection.training.more_steps import MoreSteps
from detection.training.optimizer import load_optimizer
from detection.training.random_state import capture_random_state, restore_random_state

_NAME = re.compile(r"checkpoint_(\d+)\.pt")


@dataclass
class TrainingState:
    """The state that changes during a run.

    Attributes:
        network: the network itself, not its DDP wrapper.
        optimizer: with its momentum buffers.
        scaler: the loss scale of fp16; None otherwise.
        step: updates done so far.
        evaluated: the step of the last periodic evaluation that was done.
        elapsed: seconds of training so far, over all the sessions of the run.
        best: the best evaluation so far.
        average: the moving average of the weights; None if there is none.
        averages: this rank's share of the log's unfinished averages (`LossWatch.running_sums`).
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    evaluated: int = 0
    elapsed: float = 0.0
    best: Best = field(default_factory=Best)
    average: WeightAverage | None = None
    averages: dict[str, Any] | None = None


class Checkpointer:
    """Writes and reads the checkpoints of one run.

    Args:
        folder: the run's output folder.
        provenance: the inputs of the run (config, dataset fingerprint, weights' SHA-256 …), JSON-serialisable. A
            checkpoint with another provenance is refused.
        keep: how many checkpoints are kept; with at least 2, one remains if the newest is damaged.
        warn: called with each warning (that a damaged checkpoint was renamed).
        upgrade: the content of a checkpoint of an earlier version → the same in today's form.
        model: what is needed beside the weights to build the network, as plain values; stored in each checkpoint.
        more_steps: accepts the checkpoints of a run of fewer steps; None refuses them.
        precision: what the training computes in; stored in each checkpoint.

    Attributes:
        restarts: where the run went on with more steps on a longer cosine (`MoreSteps.restart`).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        provenance: Mapping[str, Any],
        *,
        keep: int = 2,
        warn: Callable[[str], None] = print,
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
        model: Mapping[str, Any] | None = None,
        more_steps: MoreSteps | None = None,
        precision: str = "fp32",
    ) -> None:
        if keep < 1:
            raise UserError(f"the number of checkpoints to keep must be at least 1, not {keep}")
        self.folder = Path(folder)
        self.provenance = json.loads(json.dumps(dict(provenance), sort_keys=True, default=str))
        self._keep = keep
        self._warn = warn
        self._upgrade = upgrade
        self._model = dict(model or {})
        self._more_steps = more_steps
        self._precision = precision
        self.restarts: list[dict[str, int]] = []

    def latest(self) -> Path | None:
        """The path of the newest checkpoint by its name, which is not read; None if there is none."""
        found = self._all()
        return found[-1] if found else None

    def stored_precision(self) -> str | None:
        """The precision of the newest undamaged checkpoint; None without one. Every rank calls this."""

        def read() -> str | None:
            path = self._newest_whole()
            return None if path is None else str(load_artifact(path, "checkpoint").get("precision", "fp32"))

        return on_main(read)

    def save(self, state: TrainingState) -> Path:
        """Writes a checkpoint of `state`, verifies it, and then deletes the older ones. Every rank calls this.

        Raises:
            UserError: it cannot be written. The earlier checkpoints are untouched.
        """
        path = self.folder / f"checkpoint_{state.step:08d}.pt"
        self._write(state, path)
        if is_main():
            for old in self._all()[: -self._keep]:
                old.unlink(missing_ok=True)
        return path

    def save_best(self, state: TrainingState) -> Path:
        """Writes `best.pt`, which `save` never deletes. Every rank calls this."""
        path = self.folder / "best.pt"
        self._write(state, path)
        return path

    def resume(self, state: TrainingState) -> bool:
        """Fills `state`, and sets the random generators, from the newest undamaged checkpoint; returns False if the
        folder holds none. Every rank calls this.

        A damaged one is renamed to `.damaged` with a warning, and the one before it is used.

        Raises:
            UserError: all checkpoints are damaged; or they belong to another run (the keys that differ are listed), or
                to another network.
        """
        path = on_main(self._newest_whole)
        if path is None:
            return False
        if not path.is_file():
            raise UserError(
                f"rank {rank()} on {socket.gethostname()} does not see {path}: all machines of a run need one output "
                "folder (a shared file system)"
            )
        content = load_artifact(path, "checkpoint")
        self._fill(state, content, path)
        return True

    def load_best(self, network: nn.Module, step: int) -> bool:
        """Gives the network the evaluated weights of `best.pt`, the checkpoint of `step`. Returns False and leaves the
        network as it is, with a warning, if that file is missing, damaged or of another step.

        Raises:
            UserError: the file belongs to another run or network.
        """
        path = self.folder / "best.pt"
        problem = f"{path}, the best checkpoint, is missing"
        if path.is_file():
            try:
                content = load_artifact(path, "checkpoint")
            except DamagedFile as error:
                problem = str(error)
            else:
                if content["step"] == step:
                    with _fitting(path):
                        network.load_state_dict(evaluated_weights(self._of_this_run(content, path)))
                    return True
                problem = f"{path} is of step {content['step']}, not of the best evaluation, step {step}"
        if is_main():
            self._warn(f"warning: {problem}. The last weights are written instead.")
        return False

    def _all(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            (p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=lambda p: int(p.stem.split("_")[1])
        )

    def _write(self, state: TrainingState, path: Path) -> None:
        ranks = gather_objects((capture_random_state(), state.averages))
        on_main(
            lambda: save_artifact(
                path,
                "checkpoint",
                provenance=json.dumps(self.provenance, sort_keys=True),
                model=self._model,
                step=state.step,
                evaluated=state.evaluated,
                elapsed=state.elapsed,
                best=state.best.state_dict(),
                restarts=self.restarts,
                precision=self._precision,
                network=state.network.state_dict(),
                average=None if state.average is None else state.average.state_dict(),
                optimizer=state.optimizer.state_dict(),
                scaler=None if state.scaler is None else state.scaler.state_dict(),
                random=[generators for generators, _ in ranks],
                averages=[averages for _, averages in ranks],
            )
        )

    def _newest_whole(self) -> Path | None:
        for leftover in self.folder.glob(".*.pt.*tmp"):  # of a run that was killed while writing
            leftover.unlink(missing_ok=True)
        candidates = self._all()
        for path in reversed(candidates):
            try:
                load_artifact(path, "checkpoint")
            except DamagedFile as error:
                # Renamed, because by its number it would otherwise remain the newest, and good ones would be deleted.
                path.rename(path.with_suffix(".damaged"))
                self._warn(
                    f"warning: {error}. It is kept as {path.with_suffix('.damaged').name}; the one before is used."
                )
            else:
                return path
        if candidates:
            raise UserError(
                f"no checkpoint in {self.folder} is whole ({len(candidates)} tried): start anew in another folder"
            )
        return None

    def _of_this_run(self, content: dict[str, Any], path: Path) -> dict[str, Any]:
        """The content in today's form, if it is of this run."""
        content = self._upgrade(content)
        theirs = json.loads(content["provenance"])
        if self._more_steps is not None:
            theirs = self._more_steps.accept(theirs, _count(content["step"]))
        require_same_run(path, theirs, self.provenance)
        return content

    def _fill(self, state: TrainingState, content: dict[str, Any], path: Path) -> None:
        with _fitting(path):
            content = self._of_this_run(content, path)
            state.network.load_state_dict(content["network"])
            load_optimizer(state.optimizer, content["optimizer"])
            if state.scaler is not None and content["scaler"] is not None:
                state.scaler.load_state_dict({key: _number(value) for key, value in content["scaler"].items()})
            state.step, state.evaluated = _count(content["step"]), _count(content["evaluated"])
            restart = None if self._more_steps is None else self._more_steps.restart(state.step)
            earlier = [{str(key): _count(value) for key, value in one.items()} for one in content.get("restarts", [])]
            self.restarts = earlier + ([] if restart is None else [restart])
            state.elapsed = float(_number(content["elapsed"]))
            state.best.load_state_dict(content["best"])
            if state.average is not None:
                state.average.load_state_dict(content["average"])
            # Checkpoints of earlier releases have none: the first average after resuming is then over fewer steps.
            state.averages = _own_share(content.get("averages", []))
            # With more ranks than before, the additional ranks keep the random state of a fresh process.
            if rank() < len(content["random"]):
                restore_random_state(content["random"][rank()])


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Context in which the errors of content that does not fit the run or its network become a UserError."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path} does not fit this run: {' '.join(str(error).split())[:500]}") from error


def evaluated_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint's content that are evaluated and written: the averaged ones where there are any."""
    average = content.get("average")
    return {**content["network"], **(average["values"] if average is not None else {})}


def provenance_of(path: Path) -> tuple[dict[str, Any], int]:
    """The provenance of the run that wrote a checkpoint, as stored in it, and the steps that were done; raises the
    errors of `load_artifact`."""
    content = load_artifact(path, "checkpoint")
    return json.loads(content["provenance"]), _count(content["step"])


def require_same_run(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], *, partly: bool = False) -> None:
    """Compares the provenance of the checkpoint `path` with that of this run; `partly`: only the keys of `ours`.

    Raises:
        UserError: they differ; each key that differs is listed with both values.
    """
    theirs, ours = flat(theirs), flat(ours)
    keys = ours.keys() if partly else theirs.keys() | ours.keys()
    different = sorted(key for key in keys if theirs.get(key) != ours.get(key))
    if different:
        lines = [
            f"{key}: {theirs.get(key, 'absent')} in the checkpoint, {ours.get(key, 'absent')} now" for key in different
        ]
        raise UserError(
            f"{path} belongs to another run. "
            + "; ".join(lines)
            + ". Give the same settings and data, or another output folder."
        )


def _own_share(averages: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The running sums that this rank resumes from; with fewer ranks than before, the sum of those of several ranks."""
    own = [share for share in averages[rank() :: world_size()] if share is not None]
    if not own:
        return None
    names = own[0]["names"]
    if not all(share["names"] == names and share["sums"].shape == (len(names),) for share in own):
        raise ValueError("the averages of its log are not of the same losses")
    sums = torch.stack([share["sums"].float() for share in own]).sum(dim=0)
    return {"names": [str(name) for name in names], "sums": sums, "images": sum(_count(s["images"]) for s in own)}


def _number(value: Any) -> int | float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"a number is expected, not {value!r:.80}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"a count is expected, not {value!r:.80}")
    return value
