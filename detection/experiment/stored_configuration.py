"""The configuration stored in a weight or proposal file → the configuration of a tool that was given only that file.

The file may be from an untrusted source. Therefore where files are written depends only on the command line and on the
location of the file, not on its content.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from detection import config as settings
from detection.common.core_yaml import parse_yaml
from detection.config_file import quoted
from detection.data.demo import demo_files
from detection.experiment.agreement import change_trained
from detection.training.distributed import named_device

_PATHS = tuple(f"data.{which}.{key}" for which in ("train", "test") for key in ("annotations", "images"))


def change_stored_config(stored: settings.Config, file: Path, changes: Sequence[str]) -> settings.Config:
    """The configuration of a weight or proposal file with the command line's changes.

    `runtime.precision` is auto where the network will run on a CPU, and that of the training on a GPU, unless `changes`
    state it. `output` is the file's own folder. The images of the demo are read, but not drawn if they are missing.
    `data.<split>.annotations` and `.images` in `changes` are relative to the working directory, or to `data.root` if
    `changes` contain it, as in a configuration file.

    Raises:
        UserError: a change cannot be made, or is of a value that is fixed by training.
    """
    data = stored.data
    if data.layout == "demo":
        data = dataclasses.replace(data, layout="files", train=_of_demo(data.train), test=_of_demo(data.test))
    stored = dataclasses.replace(stored, output=str(file.parent), data=data)
    stored = with_precision_for_inference(stored, named_device(stored.runtime.device))
    if not any(text.partition("=")[0].strip() == "data.root" for text in changes):
        changes = [_absolute(text) for text in changes]
    return change_trained(stored, changes, file)


def with_precision_for_inference(stored: settings.Config, device: torch.device) -> settings.Config:
    """The configuration of a trained file with `runtime.precision: auto` on a CPU: the file's own is how the training
    ran, perhaps on another machine."""
    if device.type != "cpu":
        return stored
    return dataclasses.replace(stored, runtime=dataclasses.replace(stored.runtime, precision="auto"))


def _absolute(text: str) -> str:
    key, _, value = text.partition("=")
    if key.strip() not in _PATHS:
        return text
    path = parse_yaml(value, text)
    if not isinstance(path, str):
        return text
    return f"{key}={quoted(str(Path.cwd() / path))}"


def _of_demo(split: settings.Split) -> settings.Split:
    if split.annotations is not None or split.images is not None:
        return split
    annotations, images = demo_files(Path(), split.name)
    return dataclasses.replace(split, annotations=annotations.as_posix(), images=images.as_posix())
