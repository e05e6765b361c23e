"""A folder of images and labels → a configuration that fits them and this machine, with the reason for each value.

The start is a preset, `small/` for a CPU and `pyramid/` for a GPU. Image size, anchors, limits and the number of steps
are then set by the data; with a time given, the steps are those that measured ones leave room for.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbones.common.errors import UserError
from backbones.common.files import user_path
from backbones.common.units import format_duration
from detection import config as settings
from detection.commented_yaml import changed_values, commented_yaml
from detection.config_file import change_config, load_config
from detection.data.discovery import NoSuchSplit, find_layout, is_whole
from detection.data.index import DatasetIndex
from detection.experiment.datasets import contents_of, label_options, open_split, test_augmentation
from detection.experiment.model_files import load_detector
from detection.experiment.paces import Paces, measure_paces
from detection.geometry.anchor_fitting import describe_anchors, fit_anchors
from detection.presets import comments_of, preset_path
from detection.training.distributed import broadcast_object, world_size

logger = logging.getLogger(__name__)

PRESETS = {"cpu": "small/base.yaml", "cuda": "pyramid/resnext50_32x4d.yaml"}
_SIZES = ("shorter_sides", "longer_side", "test_shorter_side", "test_longer_side")
_TEST_SHARE = 0.2  # of a set that comes in one piece
_SMALL = 16.0  # pixels at the network's scale: four cells of the finest level of a pyramid
_SIDES = {"cpu": (320, 384, 448, 512), "cuda": (800, 960, 1024)}  # shorter sides, the preset's first
_RPN_SHARE = 0.4  # of the time of both trainings; the Fast R-CNN's targets are more varied
_RESERVE = 0.08  # of the time given, for start, checkpoints and what else runs on the machine
_FEWEST = 20  # steps
_EPOCHS = 30  # of the RPN, without a time; half as many again for the Fast R-CNN
_LEAST_STEPS, _MOST_STEPS = {"cpu": 800, "cuda": 2_000}, {"cpu": 20_000, "cuda": 90_000}
_KEEP_ANCHORS = 0.01  # the preset's anchors stay if the fitted ones raise the mean best IoU by less


# Sections whose reason serves for the keys below them; other keys, such as data.split, are written as one value.
_SECTIONS = {"data", "backbone", "rpn", "fast_rcnn", "runtime", "rpn.training", "fast_rcnn.training"}


@dataclass
class FittedConfig:
    """A configuration; full key → reason; the keys that were given, which stay; the heading of the file; and the times
    that were measured, if any."""

    config: settings.Config
    reasons: dict[str, str]
    given: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    paces: Paces | None = None

    def text(self) -> str:
        """The commented YAML file."""
        values = changed_values(self.config, [key for key in self.reasons if key not in _SECTIONS])
        return commented_yaml(values, self.reasons, "\n".join(self.notes))

    def change(self, reason: str, **values: Any) -> None:
        """Sets keys, with `__` in place of dots, for a reason; those that were given stay."""
        for name, value in values.items():
            key = name.replace("__", ".")
            if not any(one == key or one.startswith(f"{key}.") for one in self.given):
                self.config = _set(self.config, key.split("."), value)
                self.reasons[key] = reason


def _set(config: Any, keys: Sequence[str], value: Any) -> Any:
    if len(keys) > 1:
        value = _set(getattr(config, keys[0]), keys[1:], value)
    return dataclasses.replace(config, **{keys[0]: value})


def fit_config(
    root: Path,
    device: torch.device,
    *,
    name: str,
    changes: Sequence[str] = (),
    minutes: float | None = None,
    init_from: Path | None = None,
    stated_device: str = "auto",
) -> FittedConfig:
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
    fitted = FittedConfig(load_config(path), own)
    _set_identity(fitted, root, name, device, stated_device, preset)
    if init_from is not None:
        _take_structure(fitted, init_from)
    _set_recipe(fitted)
    fitted.config = change_config(fitted.config, list(changes))
    fitted.given = frozenset(text.partition("=")[0].strip() for text in changes)
    fitted.reasons |= dict.fromkeys(sorted(fitted.given), "given")
    train, test = _fit_splits(fitted)
    if init_from is None:
        _fit_size(fitted, train, device.type)
        _fit_anchors(fitted, train)
    _fit_limits(fitted, train)
    if minutes is None:
        _fit_steps(fitted, len(train), device.type)
    else:
        _fit_minutes(fitted, device, minutes, began)
    fitted.config = change_config(fitted.config, list(changes))  # once more: checks the whole
    fitted.notes = _heading(train, test, preset, minutes)
    return fitted


def _set_identity(fitted: FittedConfig, root: Path, name: str, device: torch.device, stated: str, preset: str) -> None:
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


def _take_structure(fitted: FittedConfig, init_from: Path) -> None:
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


def _set_recipe(fitted: FittedConfig) -> None:
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


def _fit_splits(fitted: FittedConfig) -> tuple[DatasetIndex, DatasetIndex | None]:
    """Sets how the labels are read; returns both splits."""
    stated = fitted.config.data
    root, options = user_path(stated.root), label_options(stated)
    if stated.layout == "auto" and not (stated.train.annotations or stated.train.images):
        layout, _ = find_layout(root, options)
        fitted.change(f"found by {layout.evidence}", data__format=layout.format)
        if stated.split.test is None and not stated.test.annotations and is_whole(root, options):
            fitted.change(
                f"the set comes in one piece: {_TEST_SHARE:.0%} of its images, by class, are for the evaluation",
                data__split=settings.Division(_TEST_SHARE),
            )
    data = fitted.config.data
    train = open_split(data, "train")
    try:
        test = open_split(data, "test")
    except NoSuchSplit as error:
        test = None
        logger.info("%s", error)
    if not len(train.non_empty()):
        raise UserError(f"{train.annotation_file}: no image has an object: there is nothing to train on")
    empty = len(train) - len(train.non_empty())
    if empty:
        fitted.change(f"{empty} of {len(train)} training images have no object: they are background",
                      data__keep_empty=True)  # fmt: skip
    fitted.change("objects may be mirrored; 0 where left and right differ, as in texts and signs",
                  data__horizontal_flip=fitted.config.data.horizontal_flip)  # fmt: skip
    return train, test


def scaled_boxes(data: settings.Data, index: DatasetIndex) -> np.ndarray:
    """The boxes of an index, without crowd regions, in pixels of the network's input at the test's size, float64 (T, 4)."""
    resize = test_augmentation(data)
    sizes = np.array(
        [resize.target_size(int(h), int(w), 0) for h, w in zip(index.heights, index.widths, strict=True)],
        dtype=np.float64,
    ).reshape(-1, 2)
    scale = sizes / np.stack([index.heights, index.widths], axis=1)
    rows = np.repeat(np.arange(len(index)), np.diff(index.offsets))
    boxes = index.boxes.astype(np.float64) * np.tile(scale[rows, ::-1], 2)
    return np.asarray(boxes[~index.crowds])


def _fit_size(fitted: FittedConfig, index: DatasetIndex, device: str) -> None:
    """Sets the image size: the preset's, or larger where many boxes would be small and the images hold more."""
    shorter, longer = np.minimum(index.heights, index.widths), np.maximum(index.heights, index.widths)
    own = float(np.median(shorter))
    aspect = min(max(float(np.quantile(longer / shorter, 0.95)), 1.5 if device == "cpu" else 5 / 3), 2.0)
    extent = index.boxes[~index.crowds]
    size = np.sqrt(np.prod(extent[:, 2:] - extent[:, :2], axis=1))
    rows = np.repeat(np.arange(len(index)), np.diff(index.offsets))[~index.crowds]
    relative = size / shorter[rows]
    sides = _SIDES[device]
    side = sides[0]
    for larger in sides[1:]:
        if larger <= own * 1.05 and np.quantile(relative, 0.1) * side < _SMALL:
            side = larger
    side = min(side, max(_to_16(2 * own), 96))
    tenth = np.quantile(relative, 0.1) * side
    reason = (
        f"the images' shorter sides are {own:.0f} pixels in the median; at {side} nine tenths of the boxes are at "
        f"least {tenth:.0f} pixels large (√area)"
    )
    longest = _to_16(side * aspect)
    fitted.change(reason, data__test_shorter_side=side)
    fitted.change(f"as wide as 95 % of the images need ({aspect:.2f}:1), at most 2:1",
                  data__test_longer_side=longest)  # fmt: skip
    fitted.change("the test's side, plus or minus a tenth: objects vary in size",
                  data__shorter_sides=tuple(_to_16(factor * side) for factor in (0.9, 1.0, 1.1)))  # fmt: skip
    fitted.change("a tenth above the test's", data__longer_side=_to_16(1.1 * longest))


def _to_16(value: float) -> int:
    return max(16, 16 * round(value / 16))


def _fit_anchors(fitted: FittedConfig, index: DatasetIndex) -> None:
    """Sets anchors fitted to the boxes, unless the preset's are as good or a given detector's are kept."""
    config = fitted.config
    if config.init_from is not None:
        return
    boxes = scaled_boxes(config.data, index)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 0).all(axis=1)]
    strides = [4, 8, 16, 32, 64] if config.backbone.features == "pyramid" else [16]
    count = len(config.rpn.anchor_sizes) // len(strides)
    preset = describe_anchors(boxes, config.rpn.anchor_sizes, config.rpn.anchor_ratios, strides)
    found = fit_anchors(boxes, strides, count)
    if found.mean_iou < preset.mean_iou + _KEEP_ANCHORS:
        reason = (
            f"the preset's: a box overlaps its best anchor by {preset.mean_iou:.2f} in the mean, fitted ones by no more"
        )
        found = preset
    else:
        reason = (
            f"fitted to the boxes: the mean IoU with the best anchor is {found.mean_iou:.2f} (preset: "
            f"{preset.mean_iou:.2f}), {found.reached_50:.0%} reach 0.5 ({preset.reached_50:.0%}), "
            f"{found.reached_70:.0%} reach 0.7 ({preset.reached_70:.0%})"
        )
    fitted.change(reason, rpn__anchor_sizes=found.sizes)
    fitted.change("height / width; " + ("all boxes are about of one shape" if len(found.ratios) == 1 else "as above"),
                  rpn__anchor_ratios=found.ratios)  # fmt: skip


def _fit_limits(fitted: FittedConfig, index: DatasetIndex) -> None:
    """Raises the numbers of proposals and detections where images are crowded."""
    counts = np.diff(index.offsets)
    most = int(counts.max(initial=0))
    rpn, fast = fitted.config.rpn, fitted.config.fast_rcnn
    wanted = max(1.5 * most, 4 * float(np.quantile(counts, 0.95)))
    wanted = min(50 * math.ceil(wanted / 50), 2000)
    for key, limits, needed in (
        ("rpn__training_proposals", rpn.training_proposals, 2 * wanted),
        ("rpn__test_proposals", rpn.test_proposals, wanted),
    ):
        if needed > limits.after_nms:
            before = None if limits.before_nms is None else max(limits.before_nms, 2 * needed)
            changed = dataclasses.replace(limits, after_nms=needed, before_nms=before)
            fitted.change(f"an image has up to {most} objects: several proposals for each", **{key: changed})
    detections = 10 * math.ceil(1.5 * most / 10)
    if detections > fast.detections:
        fitted.change(f"an image has up to {most} objects; COCO's figures count 100 detections a class",
                      fast_rcnn__detections=detections)  # fmt: skip


def _fit_steps(fitted: FittedConfig, images: int, device: str) -> None:
    """Sets the steps by the size of the data."""
    for section, factor in (("rpn", 1.0), ("fast_rcnn", 1.5)):
        training: settings.Training = getattr(fitted.config, section).training
        epochs = math.ceil(factor * _EPOCHS * images / training.global_batch)
        steps = int(min(max(epochs, factor * _LEAST_STEPS[device]), factor * _MOST_STEPS[device]))
        done = steps * training.global_batch / images
        reason = f"{done:.0f} times each of {images} images: {_EPOCHS * factor:.0f} times, within bounds; " \
                 "--minutes sets another time"  # fmt: skip
        _set_steps(fitted, section, steps, reason)


def _fit_minutes(fitted: FittedConfig, device: torch.device, minutes: float, began: float) -> None:
    """Sets the steps that measured ones leave room for."""
    for section in ("rpn", "fast_rcnn"):
        _set_steps(fitted, section, 100, "")
    paces = fitted.paces = measure_paces(fitted.config, device)
    fixed = paces.proposals() + 2 * paces.evaluation() + paces.last_evaluation() + time.monotonic() - began
    left = 60 * minutes * (1 - _RESERVE) - fixed
    if left < 0.2 * 60 * minutes:
        raise UserError(
            f"--minutes {minutes:g} is too short: measuring, proposals and evaluations take about "
            f"{format_duration(fixed)} here; give at least {math.ceil(2 * fixed / 60 / (1 - _RESERVE))}"
        )
    left = broadcast_object(left)
    for section, share, step in (
        ("rpn", _RPN_SHARE, paces.rpn_step),
        ("fast_rcnn", 1 - _RPN_SHARE, paces.fast_rcnn_step),
    ):
        training: settings.Training = getattr(fitted.config, section).training
        steps = int(share * left / step)
        while (
            steps > _FEWEST and paces.training(_with_steps(training, steps), step) > share * left + paces.evaluation()
        ):
            steps = int(0.98 * steps)
        reason = (
            f"{share:.0%} of the {format_duration(left)} of {minutes:g} minutes that measuring, proposals, the last "
            f"evaluations and a reserve of {_RESERVE:.0%} leave; a step takes {step:.3g} s, measured on "
            f"{world_size()} × {device}"
        )
        _set_steps(fitted, section, max(steps, _FEWEST), reason)


def _with_steps(training: settings.Training, steps: int) -> settings.Training:
    return dataclasses.replace(training, steps=steps)


def _set_steps(fitted: FittedConfig, section: str, steps: int, reason: str) -> None:
    training: settings.Training = getattr(fitted.config, section).training
    warmup = min(500 if training.global_batch > 4 else 50, steps // 5)
    fitted.change(reason, **{f"{section}__training__steps": steps})
    fitted.change("at most a fifth of the steps", **{f"{section}__training__warmup_steps": warmup})
    every = max(min(steps // 5, 2000), 10)
    fitted.change("what a power cut loses at most", **{f"{section}__training__checkpoint_every": every})
    fitted.change("lines of the log", **{f"{section}__training__log_every": min(20, max(steps // 20, 1))})


def _heading(train: DatasetIndex, test: DatasetIndex | None, preset: str, minutes: float | None) -> list[str]:
    counts = np.bincount(train.labels[~train.crowds], minlength=len(train.category_names) + 1)[1:]
    classes = ", ".join(f"{name} {count}" for name, count in zip(train.category_names[:20], counts[:20], strict=False))
    more = ", …" if len(train.category_names) > 20 else ""
    time = "" if minutes is None else f", for {minutes:g} minutes on this machine"
    lines = [
        f"Written by tools/new_config.py{time}: change what you like. Every value has its reason behind or above it; what "
        f"begins with `{preset}:` is from the preset configs/{preset}/, which names its sources. Keys that are not here "
        "have their defaults (docs/configuration.md).",
        f"data.train: {contents_of(train)}.",
        "data.test: none: no AP is computed, and no best weights are kept."
        if test is None
        else f"data.test: {contents_of(test)}.",
        f"Objects of each class in data.train: {classes}{more}.",
    ]
    absent = [name for name, count in zip(train.category_names, counts, strict=True) if not count]
    if absent:
        lines.append(f"Without an object in data.train, and therefore not learnt: {', '.join(absent[:20])}.")
    return [line.replace("\r", " ").replace("\n", " ") for line in lines]
