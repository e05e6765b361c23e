"""A folder of images and labels → the file of a configuration for it: a new one, or the one of an earlier call."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backbones.common.errors import UserError
from backbones.common.files import CannotWrite, user_path, write_text
from detection import config as settings
from detection.config_file import load_config, quoted
from detection.experiment.fitted_config import fit_config
from detection.experiment.reasoned_config import ReasonedConfig
from detection.training.distributed import on_main

logger = logging.getLogger(__name__)


def name_for(root: Path) -> str:
    """The name of a run on the data in a folder: the folder's, without what file names and splits must not have.

    >>> name_for(Path("/data/My cells"))
    'My_cells'
    """
    return re.sub(r"[^\w.-]+", "_", user_path(root).resolve().name).strip("._") or "data"


def write_new_config(
    path: Path, root: Path, device: torch.device, *, name: str, changes: Sequence[str] = (), **options: Any
) -> ReasonedConfig:
    """Writes a new file with the configuration of `fit_config`, whose options these are. Every rank calls this.

    Raises:
        UserError: the file exists, or the errors of `fit_config`.
    """
    on_main(lambda: _require_new(path))
    fitted = fit_config(root, device, name=name, changes=changes, **options)
    text = fitted.text()

    def write() -> None:
        _require_new(path)
        write_text(path, text)

    on_main(write)
    return fitted


def _require_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path}: is there already, and is not overwritten; name another file (--output), or delete it")
    parent = path.absolute().parent
    if parent.exists() and not os.access(parent, os.W_OK):
        raise CannotWrite(f"{path}: its folder cannot be written")


def config_for_data(
    root: Path,
    device: torch.device,
    *,
    output: Path | None = None,
    changes: Sequence[str] = (),
    minutes: float | None = None,
    init_from: Path | None = None,
    stated_device: str = "auto",
) -> tuple[settings.Config, ReasonedConfig | None]:
    """The configuration for the data in a folder, from `<name>.yaml` in the folder of its run, which is written if
    it is missing; and what was fitted if it was written now. Every rank calls this.

    Args:
        output: the folder of the run; by default `runs/<name of the data's folder>`.
        The others are those of `fit_config`. A file that is there already is used, with `changes`.

    Raises:
        UserError: that folder is of other data; and the errors of `fit_config`.
    """
    name = name_for(root)
    folder = (user_path(output) if output is not None else Path("runs") / name).absolute()
    path = folder / f"{name}.yaml"
    own = [f"output={quoted(str(folder))}"]
    fitted = None
    if not on_main(lambda: os.path.lexists(path)):
        fitted = write_new_config(
            path, root, device, name=name, changes=[*changes, *own], minutes=minutes, init_from=init_from,
            stated_device=stated_device,
        )  # fmt: skip
        on_main(lambda: logger.info("written: %s, the configuration with the reason for each value", path))
    else:
        remark = "" if minutes is None else ", with its steps; for other --minutes name another folder (--output)"
        on_main(lambda: logger.info("%s: the configuration of an earlier call is used%s", path, remark))
    # The folder may have been moved since.
    config = load_config(path, [*changes, *own])
    if user_path(config.data.root).resolve() != user_path(root).resolve() and not _states_root(changes):
        raise UserError(
            f"{path}: is for the data in {config.data.root}, not in {root}; name another folder for this run (--output)"
        )
    if init_from is not None and config.init_from != str(user_path(init_from).resolve()):
        raise UserError(
            f"{path}: starts from {config.init_from or 'no detector'}, not from {init_from}; name another folder for "
            "this run (--output)"
        )
    return config, fitted


def _states_root(changes: Sequence[str]) -> bool:
    return any(text.partition("=")[0].strip() == "data.root" for text in changes)
