"""Configuration → the pieces of a training: rate, accumulation, schedule, optimizer, precision, batches."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import nn

from backbones import fold_batch_norm
from detection import config as settings
from detection.data.batch_plan import BatchPlan
from detection.data.batches import Batch
from detection.data.dataset import DetectionDataset
from detection.data.loader import training_batches
from detection.errors import UserError
from detection.training.distributed import rank, world_size
from detection.training.optimizer import build_optimizer
from detection.training.schedule import Schedule

Network = TypeVar("Network", bound=nn.Module)


def effective_learning_rate(training: settings.Training) -> float:
    """The rate for the global batch: `learning_rate` is stated for `learning_rate_batch` pictures a step.

    The linear scaling rule (Goyal et al., "Accurate, Large Minibatch SGD", section 2.1).
    """
    if training.learning_rate_batch is None:
        return training.learning_rate
    return training.learning_rate * training.global_batch / training.learning_rate_batch


def accumulation_steps(training: settings.Training, world: int) -> int:
    """Micro-batches that a device works through a step, so that none holds more than `images_per_device` pictures.

    Raises:
        UserError: there are more processes than pictures in a step.
    """
    if training.global_batch < world:
        raise UserError(
            f"global_batch is {training.global_batch}, fewer pictures than there are processes ({world}): "
            "start fewer processes or raise it"
        )
    return -(-training.global_batch // (world * training.images_per_device))


def schedule_for(training: settings.Training) -> Schedule:
    """The learning rate by step."""
    cosine = training.schedule == "cosine"
    return Schedule(
        effective_learning_rate(training),
        training.steps,
        decay="cosine" if cosine else "multistep",
        milestones=() if cosine else training.milestones,
        decay_factor=training.decay,
        warmup_steps=training.warmup_steps,
        warmup_factor=training.warmup_factor,
    )


def optimizer_for(network: nn.Module, training: settings.Training) -> torch.optim.SGD:
    """The optimizer, over the parameters of a network that lies on its device."""
    return build_optimizer(
        network,
        lr=effective_learning_rate(training),
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        bias_lr_factor=training.bias_lr_factor,
        bias_weight_decay=training.bias_weight_decay,
        norm_weight_decay=training.norm_weight_decay,
    )


def batches_for(
    config: settings.Config, training: settings.Training, dataset: DetectionDataset, device: torch.device
) -> Callable[[int], Iterator[Batch]]:
    """First step → this rank's micro-batches from there to the end of the training."""
    plan = BatchPlan(dataset.index.aspect_ratios, training.global_batch, dataset.seed, config.data.group_by_aspect)

    def batches(first_step: int) -> Iterator[Batch]:
        return training_batches(
            dataset,
            plan,
            first_step=first_step,
            last_step=training.steps,
            rank=rank(),
            world=world_size(),
            accumulation=accumulation_steps(training, world_size()),
            workers=config.runtime.workers,
            size_divisor=config.data.size_divisor,
            pin_memory=device.type == "cuda",
        )

    return batches


def autocast_dtype(runtime: settings.Runtime, device: torch.device) -> torch.dtype | None:
    """The type for autocast; None on a CPU, where half precision costs time instead of saving it."""
    if device.type == "cpu":
        return None
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[runtime.precision]


def placed(network: Network, runtime: settings.Runtime, device: torch.device) -> Network:
    """The network on its device, in the configured memory order."""
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    return network.to(device, memory_format=memory_format)  # type: ignore[call-overload]


def for_inference(network: Network, runtime: settings.Runtime, device: torch.device) -> Network:
    """A copy of the network on the device that only looks: in evaluation mode, batch normalisation folded into the
    convolutions before it (the same numbers to rounding)."""
    return placed(fold_batch_norm(network), runtime, device)  # type: ignore[return-value]


@contextlib.contextmanager
def determinism(runtime: settings.Runtime) -> Iterator[None]:
    """Within it, the same bits from run to run, if the configuration asks for that; torch warns where it cannot."""
    if not runtime.deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on, was_only_warning = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmarked = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_only_warning)
        torch.backends.cudnn.benchmark = benchmarked
