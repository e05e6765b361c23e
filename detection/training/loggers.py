"""Figures and images of a run → TensorBoard, Weights & Biases, MLflow or Trackio, each imported only when it is used.

All have the same four methods: `figures`, `text`, `image` and `close`. The three services keep their own settings, in
their own environment variables (WANDB_MODE=offline, MLFLOW_TRACKING_URI, TRACKIO_SPACE_ID …). A run that is resumed
goes on in the same run of the service, whose id is in the file `loggers.json` of the run's folder.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from backbones.common.errors import UserError
from backbones.common.files import read_json_object, write_json

PROJECT = "resnext-detection"  # unless the service's own environment variable names one
_IDS = "loggers.json"


class Logger(Protocol):
    """Where the figures and images of a run go."""

    def figures(self, kind: str, figures: Mapping[str, float], step: int) -> None:
        """Adds finite numbers; `kind` is "train" or "evaluation"."""

    def text(self, kind: str, text: str, step: int) -> None:
        """Adds a line about the run."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Adds an image, uint8 (H, W, 3) RGB."""

    def close(self) -> None:
        """Ends the session."""


class TensorBoard:
    """Event files in `<folder>/tensorboard`; those of later steps than `step` are hidden.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def figures(self, kind: str, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def text(self, kind: str, text: str, step: int) -> None:
        self._writer.add_text(f"{kind}/text", text, step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, named after the run's folder and the network."""

    def __init__(self, module: Any, folder: Path, name: str) -> None:
        self._module = module
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._run = module.init(
            project=project,
            group=folder.parent.name,
            name=f"{folder.parent.name} {name}",
            dir=str(folder),
            id=_own_id(folder, "wandb", _new_id),
            resume="allow",
        )
        # wandb's own steps only ascend; after a resume, the run's steps may begin before the last one that was logged.
        self._run.define_metric("*", step_metric="step")

    def figures(self, kind: str, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**{f"{kind}/{name}": value for name, value in figures.items()}, "step": step})

    def text(self, kind: str, text: str, step: int) -> None:
        self._run.summary[f"{kind}/{step}"] = text

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._run.log({name: self._module.Image(image), "step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of mlflow, in the experiment `PROJECT` or that of MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID."""

    def __init__(self, module: Any, folder: Path, name: str) -> None:
        self._module = module
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
            module.set_experiment(PROJECT)

        def new() -> str:
            run_id = module.start_run(run_name=f"{folder.parent.name} {name}").info.run_id
            module.end_run()
            return str(run_id)

        self._run_id = _own_id(folder, "mlflow", new)
        module.start_run(run_id=self._run_id)

    def figures(self, kind: str, figures: Mapping[str, float], step: int) -> None:
        self._module.log_metrics({f"{kind}/{key}": float(value) for key, value in figures.items()}, step=step)

    def text(self, kind: str, text: str, step: int) -> None:
        self._module.set_tag(f"{kind}.{step}", text)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._module.log_image(image, key=name.replace("/", "."), step=step)

    def close(self) -> None:
        self._module.end_run()


class Trackio:
    """A run of trackio."""

    def __init__(self, module: Any, folder: Path, name: str) -> None:
        self._module = module
        own = _own_id(folder, "trackio", _new_id)
        module.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            group=folder.parent.name,
            name=f"{folder.parent.name} {name} {own}",
            resume="allow",
        )

    def figures(self, kind: str, figures: Mapping[str, float], step: int) -> None:
        self._module.log({f"{kind}/{name}": value for name, value in figures.items()}, step=step)

    def text(self, kind: str, text: str, step: int) -> None:
        self._module.log({f"{kind}/text": text}, step=step)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        self._module.log({name: self._module.Image(image)}, step=step)

    def close(self) -> None:
        self._module.finish()


SERVICES: dict[str, Callable[[Any, Path, str], Logger]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def import_services(names: Sequence[str]) -> dict[str, Any]:
    """The modules of the services by name.

    Raises:
        UserError: one is not installed; the message names the command that installs it.
    """
    modules = {}
    for name in names:
        try:
            modules[name] = importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"runtime.loggers: {name} cannot be imported ({error}). Install it with `pip install {name}`, or leave "
                f"{name} out"
            ) from None
    return modules


def _own_id(folder: Path, service: str, new: Callable[[], str]) -> str:
    """The id of this run at a service, made by `new` at its first session and kept in the run's folder."""
    path = folder / _IDS
    known = read_json_object(path)
    if not isinstance(known.get(service), str):
        known[service] = new()
        write_json(path, known, indent=None)
    return str(known[service])


def _new_id() -> str:
    return uuid.uuid4().hex[:8]
