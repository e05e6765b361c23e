"""The configuration of a classifier: typed, immutable, every value of the recipe by its name.

Files are in `configs/imagenet/` and `configs/cifar/`; the reader is the detectors' (`detection/config_file.py`). The
defaults are the paper's for ImageNet, as its reference code has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from detection import config as settings
from detection.config import BATCH, COUNT, FACTOR, SIDE, STEPS, WIDTH, within

STRUCTURE = ("depths", "cardinality", "base_width", "planes", "stem_width", "stem", "residual")


@dataclass(frozen=True)
class Data:
    """The images, their augmentation, and the views of the test."""

    root: str = "data/imagenet"
    # Folders of the root in the ImageFolder layout; in CIFAR's official archives, which are read too, train and test
    train: str = "train"
    test: str = "val"
    skip_unreadable: bool = False  # training: replace a damaged image by another; false: stop the run
    # Training. random_sized: a random part, resized; padded: a random square of the image padded on all sides
    crop: Literal["random_sized", "padded"] = "random_sized"
    size: int = within(224, 1, SIDE)
    min_area: float = within(0.08, 0.001, 1)  # of a random-sized crop, as a share of the image's area
    padding: int = within(4, 0, SIDE)  # pixels on each side, for padded crops
    colour_jitter: float = within(0.4, 0, 1)
    lighting: float = within(0.1, 0, FACTOR)
    horizontal_flip: float = within(0.5, 0, 1)  # probability
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"  # wherever an image is resized
    # Testing: the shorter side is resized to this (null: not resized), and the centre is cropped
    test_resize: int | None = within(256, 1, SIDE)
    test_size: int = within(224, 1, SIDE)


@dataclass(frozen=True)
class Network:
    """The ResNeXt."""

    name: str = "resnext50_32x4d"  # `python -m backbones` lists them
    weights: str | None = None  # a name from the table of sources, a URL or a file; null starts from scratch
    norm: Literal["batch", "group"] = "batch"
    # Any network by its numbers: these replace the named variant's own.
    depths: tuple[int, ...] | None = within(None, 1, 1000)
    cardinality: int | None = within(None, 1, WIDTH)
    base_width: int | None = within(None, 1, WIDTH)
    planes: int | None = within(None, 1, WIDTH)
    stem_width: int | None = within(None, 1, WIDTH)
    stem: Literal["imagenet", "cifar"] | None = None
    residual: bool | None = None
    # The network's input normalisation, for RGB of 0-255; null: the weights' convention, or the stem's
    mean: tuple[float, float, float] | None = within(None, 0, 255)
    std: tuple[float, float, float] | None = within(None, 1e-3, 255)

    def structure(self) -> dict[str, Any]:
        """The numbers that are set, as `create_classifier` takes them."""
        return {name: getattr(self, name) for name in STRUCTURE if getattr(self, name) is not None}


@dataclass(frozen=True)
class Training:
    """Stochastic gradient descent, counted in epochs: as many steps as it takes to see each image, rounded up."""

    global_batch: int = within(256, 1, BATCH)  # images a step, over all devices
    images_per_device: int = within(32, 1, COUNT)  # that one device holds at once; the rest of its share is accumulated
    learning_rate: float = within(0.1, 0, FACTOR)
    # The rate above is for this global batch; with another it is scaled in proportion. null: taken as it stands
    learning_rate_batch: int | None = within(256, 1, COUNT)
    epochs: int = within(100, 1, COUNT)
    milestones: tuple[int, ...] = within((30, 60, 90), 1, COUNT)  # epochs after which the rate is multiplied by `decay`
    decay: float = within(0.1, 0, 1)
    schedule: Literal["step", "cosine"] = "step"
    warmup_epochs: float = within(0.0, 0, COUNT)  # the rate rises linearly from warmup_factor × itself
    warmup_factor: float = within(1 / 3, 0, 1)
    momentum: float = within(0.9, 0, 1)
    nesterov: bool = True
    weight_decay: float = within(1e-4, 0, FACTOR)
    bias_weight_decay: bool = True  # the reference code lets every parameter decay
    norm_weight_decay: bool = True
    clip_norm: float | None = within(None, 0, 1e12)
    log_every: int = within(100, 1, STEPS)  # steps
    checkpoint_every: int = within(2_000, 1, STEPS)  # steps
    keep_checkpoints: int = within(2, 1, COUNT)
    evaluate_every: int | None = within(1, 1, COUNT)  # epochs between measurements of the test error; null: never

    def steps_per_epoch(self, images: int) -> int:
        """Steps per epoch, rounded up as in the reference code, whose last batch of an epoch is smaller."""
        return -(-images // self.global_batch)

    def in_steps(self, images: int) -> settings.Training:
        """The same settings for a training set of this size, in steps instead of epochs, as the loop takes them."""
        epoch = self.steps_per_epoch(images)
        return settings.Training(
            global_batch=self.global_batch,
            images_per_device=self.images_per_device,
            learning_rate=self.learning_rate,
            learning_rate_batch=self.learning_rate_batch,
            steps=self.epochs * epoch,
            milestones=tuple(milestone * epoch for milestone in self.milestones),
            decay=self.decay,
            schedule=self.schedule,
            warmup_steps=round(self.warmup_epochs * epoch),
            warmup_factor=self.warmup_factor,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            bias_lr_factor=1.0,
            bias_weight_decay=self.bias_weight_decay,
            norm_weight_decay=self.norm_weight_decay,
            clip_norm=self.clip_norm,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            evaluate_every=None if self.evaluate_every is None else self.evaluate_every * epoch,
            keep_best=None,
        )


_RUNTIME = settings.Runtime(test_batch=64)


@dataclass(frozen=True)
class ClassifierConfig:
    """A whole experiment: the network, its data and its training."""

    name: str = "unnamed"
    output: str | None = None  # folder of everything that is written; null: runs/<name>
    seed: int = within(0, 0, 2**62)
    data: Data = Data()
    network: Network = Network()
    training: Training = Training()
    runtime: settings.Runtime = _RUNTIME

    def contradictions(self) -> list[str]:
        """Contradictory settings, in words; empty if there are none. Each single value has been checked before."""
        found = self.runtime.contradictions()
        data, training = self.data, self.training
        if data.test_resize is not None and data.test_resize < data.test_size:
            found.append(f"data.test_resize ({data.test_resize}) is below data.test_size ({data.test_size})")
        if (self.network.mean is None) != (self.network.std is None):
            found.append("network.mean and network.std belong together: set both or neither")
        if list(training.milestones) != sorted(set(training.milestones)):
            found.append(f"training.milestones {training.milestones} must ascend")
        if training.schedule == "step" and training.milestones and min(training.milestones) >= training.epochs:
            found.append(
                f"training.milestones {list(training.milestones)}: none is below training.epochs ({training.epochs}): "
                "the learning rate would never fall; name earlier ones, or set training.schedule=cosine"
            )
        if training.nesterov and training.momentum == 0:
            found.append("training.nesterov needs a momentum above 0")
        if training.schedule == "cosine" and training.warmup_epochs >= training.epochs:
            found.append("training.warmup_epochs leaves no epoch for the cosine")
        return found
