"""The configuration stored in a weight or proposal file → the configuration of a tool that was given only that file.

The file may be from an untrusted source. Therefore where files are written depends only on the command line and on the
location of the file, not on its content.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from backbones.common.files import user_path
from detection import config as settings
from detection.common.core_yaml import parse_yaml
from detection.config_file import quoted
from detection.data.demo import demo_files
from detection.data.readers.layout import WHOLE
from detection.experiment.agreement import change_trained
from detection.training.distributed import named_device

_PATHS = tuple(f"data.{which}.{key}" for which in ("train", "test") for key in ("annotations", "images"))

logger = logging.getLogger(__name__)


def change_stored_config(
    stored: settings.Config, file: Path, changes: Sequence[str], *, of_same_data: bool = False
) -> settings.Config:
    """The configuration of a weight or proposal file with the command line's changes.

    `runtime.precision` is auto where the network will run on a CPU, and that of the training on a GPU, unless `changes`
    state it. `output` is the file's own folder. The images of the demo are read, but not drawn if they are missing.
    `data.<split>.annotations` and `.images` in `changes` are relative to the working directory, or to `data.root` if
    `changes` contain it, as in a configuration file.

    `data.format` and `data.split` are of the training's own files. Where `changes` name another `data.root`, or labels
    or images of data.test, and not these keys, the format is found out, and a set in one piece is used as a whole.

    of_same_data: the file is of use for the same images alone, so that another `data.root` is where they are now, and
    both keys stay.

    Raises:
        UserError: a change cannot be made, or is of a value that is fixed by training.
    """
    data = stored.data
    if data.layout == "demo":
        data = dataclasses.replace(data, layout="files", train=_of_demo(data.train), test=_of_demo(data.test))
    if not of_same_data:
        data = _for_other_data(data, changes)
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


def is_same_folder(one: str | Path, other: str | Path) -> bool:
    """Whether two roots of data sets are one folder."""
    return user_path(one).resolve() == user_path(other).resolve()


def _for_other_data(data: settings.Data, changes: Sequence[str]) -> settings.Data:
    """`data` without what describes the training's own files, if the changes name others and do not state it."""
    stated = {key.strip(): value for key, _, value in (text.partition("=") for text in changes)}
    root = _text_of(stated, "data.root")
    moved = root is not None and not is_same_folder(root, data.root)
    named = any(_text_of(stated, f"data.test.{key}") is not None for key in ("annotations", "images"))
    if data.layout == "auto" and "data.format" not in stated and (moved or named):
        data = dataclasses.replace(data, format="auto")
    labels = data.train.annotations  # those that the split divides; in data.root, if they are not named
    moved = moved and (labels is None or not user_path(labels).is_absolute())
    if data.split.test is None or not (moved or named) or any(key.startswith("data.split") for key in stated):
        return data
    division, test = data.split, data.test
    if not named and labels is not None:
        test = dataclasses.replace(test, annotations=labels, images=data.train.images)
    elif not named:
        test = dataclasses.replace(test, name=WHOLE)
    if moved and not named:
        logger.info(
            "data.split of the training is for the images in %s: a set in one piece in %s is used as a whole. For the "
            "same images, now in another folder: data.split.test=%s data.split.seed=%d",
            data.root,
            root,
            division.test,
            division.seed,
        )
    return dataclasses.replace(data, split=settings.Division(), test=test)


def _text_of(stated: Mapping[str, str], key: str) -> str | None:
    """The text that a change sets a key to, if it is one."""
    value = parse_yaml(stated[key], f"{key}={stated[key]}") if key in stated else None
    return value if isinstance(value, str) else None


def _absolute(text: str) -> str:
    key, _, value = text.partition("=")
    path = _text_of({key.strip(): value}, key.strip()) if key.strip() in _PATHS else None
    return text if path is None else f"{key}={quoted(str(Path.cwd() / user_path(path)))}"


def _of_demo(split: settings.Split) -> settings.Split:
    if split.annotations is not None or split.images is not None:
        return split
    annotations, images = demo_files(Path(), split.name)
    return dataclasses.replace(split, annotations=annotations.as_posix(), images=images.as_posix())
