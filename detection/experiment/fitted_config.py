"""A folder of images and labels → a configuration that fits them and this machine, with the reason for each value.

The start is a preset, `small/` for a CPU and `pyramid/` for a GPU. Image size, anchors, limits and the number of steps
are then set by the data; with a time given, the steps are those that measured ones leave room for.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.text import first_of
from detection import config as settings
from detection.common.tool_names import as_called_here
from detection.config_file import change_config, load_config
from detection.data.discovery import find_layout
from detection.data.index import DatasetIndex
from detection.experiment.datasets import contents_of, has_test_split, open_split
from detection.experiment.fitted_steps import set_steps_by_images, set_steps_by_time
from detection.experiment.fitted_values import set_anchors, set_limits, set_size
from detection.experiment.label_location import label_options
from detection.experiment.model_files import load_detector
from detection.experiment.reasoned_config import ReasonedConfig
from detection.presets import comments_of, preset_path

PRESETS = {"cpu": "small/base.yaml", "cuda": "pyramid/resnext50_32x4d.yaml"}
_SIZES = ("shorter_sides", "longer_side", "test_shorter_side", "test_longer_side")
_TEST_SHARE = 0.2  # of a set that comes in one piece


def fit_config(
    root: Path,
    device: torch.device,
    *,
    name: str,
    changes: Sequence[str] = (),
    minutes: float | None = None,
    init_from: Path | None = None,
    stated_device: str = "auto",
) -> ReasonedConfig:
    """The configuration for a data set. Every rank calls this, within `process_group`.

    Args:
        root: the folder of the data.
        device: what will train.
        name: that of the run.
        changes: `key.sub=value` texts, which have the last word.
        minutes: time for the whole chain on this machine; None: steps by the size of the data.
        init_from: a detector whose weights both networks start from; its structure is taken.
        stated_device: "cpu" or "cuda" if the configuration shall say so.

    Raises:
        UserError: the data cannot be used; it is ambiguous how; or the minutes are too few.
    """
    if minutes is not None and not 0 < minutes < 1e6:
        raise UserError(f"--minutes {minutes:g}: a time above 0 is needed")
    began = time.monotonic()
    path = preset_path(PRESETS[device.type])
    preset = PRESETS[device.type].partition("/")[0]
    reasons = {key: f"{preset}: {text}" for key, text in comments_of(path).items()}
    own = {key: text for key, text in reasons.items() if key != "name" and key.partition(".")[0] != "data"}
    config = load_config(path)  # of its data, only the image sizes serve: the splits are others
    sizes = {key: getattr(config.data, key) for key in (*_SIZES, "size_divisor")}
    fitted = ReasonedConfig(dataclasses.replace(config, data=settings.Data(**sizes)), own)
    _set_identity(fitted, root, name, device, stated_device, preset)
    if init_from is not None:
        _take_structure(fitted, init_from)
    _set_recipe(fitted)
    fitted.config = change_config(fitted.config, list(changes))
    fitted.given = frozenset(text.partition("=")[0].strip() for text in changes)
    fitted.reasons |= dict.fromkeys(sorted(fitted.given), "given")
    steps = sorted(key for key in fitted.given if key.endswith(".training.steps"))
    if minutes is not None and steps:
        raise UserError(f"--minutes and {', '.join(steps)}: the time decides the steps; leave one of them out")
    train, test = _fit_splits(fitted)
    if init_from is None:
        set_size(fitted, train, device.type)
        set_anchors(fitted, train)
    set_limits(fitted, train)
    if minutes is None:
        set_steps_by_images(fitted, len(train), device.type)
    else:
        set_steps_by_time(fitted, device, minutes, began)
    fitted.config = change_config(fitted.config, list(changes))  # once more: checks the whole
    fitted.notes = _heading(train, test, preset, minutes)
    return fitted


def _set_identity(
    fitted: ReasonedConfig, root: Path, name: str, device: torch.device, stated: str, preset: str
) -> None:
    fitted.change("of the run: its folder is runs/<name>, unless `output` names another", name=name)
    fitted.change("the folder of the data; absolute, so that this file works from any folder",
                  data__root=str(user_path(root).resolve()))  # fmt: skip
    what = {"cpu": "no GPU: the smallest backbone, whose weights ship with the project"}
    reason = what.get(device.type, "a GPU: ResNeXt-50 and a feature pyramid")
    weights = fitted.config.backbone.weights or "none"
    fitted.change(f"{preset} preset. {reason}", backbone__name=fitted.config.backbone.name)
    fitted.change(f"{weights}; `python -m backbones weights` lists others and their licences",
                  backbone__weights=fitted.config.backbone.weights)  # fmt: skip
    if stated != "auto":
        fitted.change("as --device says", runtime__device=stated)
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        fitted.change("this GPU computes in bfloat16", runtime__precision="bf16")


def _take_structure(fitted: ReasonedConfig, init_from: Path) -> None:
    """Takes networks, recipe and image size of a detector, whose weights will be the initial ones."""
    given = load_detector(init_from).config
    sizes = {name: getattr(given.data, name) for name in _SIZES}
    fitted.config = dataclasses.replace(
        fitted.config,
        backbone=given.backbone, rpn=given.rpn, fast_rcnn=given.fast_rcnn,
        data=dataclasses.replace(fitted.config.data, **sizes),
    )  # fmt: skip
    sections = ("backbone", "rpn", "fast_rcnn")
    fitted.reasons = {key: why for key, why in fitted.reasons.items() if key.partition(".")[0] not in sections}
    keys = (*sections, *(f"data.{name}" for name in _SIZES))
    fitted.reasons |= dict.fromkeys(keys, "as in the detector of init_from")
    fitted.change("both networks start from the weights of this detector",
                  init_from=str(user_path(init_from).resolve()))  # fmt: skip


def _set_recipe(fitted: ReasonedConfig) -> None:
    """Sets what holds for any number of steps."""
    for section in ("rpn", "fast_rcnn"):
        key = f"{section}__training__"
        rate = getattr(fitted.config, section).training.learning_rate
        fitted.change("nothing to tune: falls to 0 with the last step", **{f"{key}schedule": "cosine"})
        fitted.change("the cosine has none", **{f"{key}milestones": ()})
        fitted.change("see steps", **{f"{key}warmup_steps": 0})
        fitted.change("AP is computed for about a twentieth of the time", **{f"{key}evaluate_every": "auto"})
        fitted.change("the weights of the best evaluation are written", **{f"{key}keep_best": "auto"})
        name = f"{section}.training.learning_rate"
        if name not in fitted.reasons:
            fitted.change("as in the detector of init_from" if fitted.config.init_from else "the preset's",
                          **{f"{key}learning_rate": rate})  # fmt: skip


def _fit_splits(fitted: ReasonedConfig) -> tuple[DatasetIndex, DatasetIndex | None]:
    """Sets how the labels are read; returns both splits."""
    stated = fitted.config.data
    root = user_path(stated.root)
    if stated.layout == "auto" and not (stated.train.annotations or stated.train.images):
        layout = find_layout(root, label_options(stated))
        fitted.change(f"found by {layout.evidence}", data__format=layout.format)
        if stated.split.test is None and not stated.test.annotations and len(layout.splits) == 1:
            fitted.change(
                f"the set comes in one piece: {_TEST_SHARE:.0%} of its images, by class, are for the evaluation",
                data__split=settings.Division(_TEST_SHARE),
            )
    data = fitted.config.data
    train = open_split(data, "train")
    test = open_split(data, "test") if has_test_split(data) else None
    if not len(train.non_empty()):
        raise UserError(f"{train.annotation_file}: no image has an object: there is nothing to train on")
    empty = len(train) - len(train.non_empty())
    if empty:
        fitted.change(f"{empty} of {len(train)} training images have no object: they are background",
                      data__keep_empty=True)  # fmt: skip
    fitted.change("objects may be mirrored; 0 where left and right differ, as in texts and signs",
                  data__horizontal_flip=fitted.config.data.horizontal_flip)  # fmt: skip
    return train, test


def _heading(train: DatasetIndex, test: DatasetIndex | None, preset: str, minutes: float | None) -> list[str]:
    counts = np.bincount(train.labels[~train.crowds], minlength=len(train.category_names) + 1)[1:]
    classes = [f"{name} {count}" for name, count in zip(train.category_names, counts, strict=True)]
    time = "" if minutes is None else f", for {minutes:g} minutes on this machine"
    lines = [
        f"Written by tools/new_config.py{time}. Change values as you like; the comment behind or above each gives its "
        f"reason. `{preset}:` marks values of the preset configs/{preset}/, which names the papers; `ours` are those "
        "that no paper states. Keys that are not here have their defaults (docs/configuration.md).",
        f"data.train: {contents_of(train)}.",
        "data.test: none; therefore no AP is computed, and the last weights are written instead of the best."
        if test is None
        else f"data.test: {contents_of(test)}.",
        f"Objects of each class in data.train: {first_of(classes, 20)}.",
    ]
    absent = [name for name, count in zip(train.category_names, counts, strict=True) if not count]
    if absent:
        lines.append(f"Without an object in data.train, and therefore not learnt: {first_of(absent, 20)}.")
    return [as_called_here(line.replace("\r", " ").replace("\n", " ")) for line in lines]
