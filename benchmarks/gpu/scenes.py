"""What the units compute on: a preset's two networks and torchvision's, in a precision, at the preset's image size."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.common import ROOT
from benchmarks.gpu.results import Work
from benchmarks.scene import Scene, make_scene
from detection import config as settings
from detection.config_file import load_config
from detection.data.batches import Batch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Images of 4 : 3 at the presets' shorter sides, padded to multiples of 32.
SIZES = {"paper": (608, 800), "modern": (800, 1088), "pyramid": (800, 1088)}
_SMALL_SIZE = (96, 128)
SMALL = (
    "backbone.depths=[1, 1, 1, 1]",
    "rpn.channels=64",
    "rpn.samples=64",
    "rpn.training_proposals.before_nms=200",
    "rpn.training_proposals.after_nms=50",
    "rpn.test_proposals.before_nms=100",
    "rpn.test_proposals.after_nms=20",
    "fast_rcnn.samples=8",
    "fast_rcnn.pooled_size=4",
)


def configuration(work: Work, preset: str, backbone: str = "resnext50_32x4d", *changes: str) -> settings.Config:
    """The preset's configuration on the unit's device; small where the unit is quick."""
    small = SMALL if work.quick else ()
    return load_config(
        ROOT / "configs" / preset / f"{backbone}.yaml", [f"runtime.device={work.device.type}", *small, *changes]
    )


def scene_of(work: Work, preset: str, config: settings.Config) -> Scene:
    """One image and its networks."""
    return make_scene(config, _SMALL_SIZE if work.quick else SIZES[preset], work.device)


def size_of(work: Work, preset: str) -> tuple[int, int]:
    """Height and width of the images of `scene_of`."""
    return _SMALL_SIZE if work.quick else SIZES[preset]


def repeated(batch: Batch, count: int) -> Batch:
    """The same image `count` times; each with a seed of its own, so that other anchors and regions are drawn."""
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    many = {name: value.repeat(count, *[1] * (value.ndim - 1)) for name, value in tensors.items()}
    many["images"] = many["images"].contiguous(memory_format=torch.channels_last)  # as `collate` makes it
    many["seeds"] = many["seeds"] + torch.arange(count, device=many["seeds"].device)
    return dataclasses.replace(batch, **many)


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Within it, float32 is computed in float32, not in TF32."""
    convolutions, products = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = convolutions.fp32_precision, products.fp32_precision
    if device.type == "cuda":
        convolutions.fp32_precision = products.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision, products.fp32_precision = before
