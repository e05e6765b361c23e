"""The configuration of a training → its learning rate, accumulation, schedule, optimizer and precision."""

from __future__ import annotations

import torch
from torch import nn

from backbones.common.errors import UserError
from detection import config as settings
from detection.training.optimizer import build_optimizer
from detection.training.precision import stated_precision
from detection.training.schedule import Schedule


def effective_learning_rate(training: settings.Training) -> float:
    """The rate for the global batch: `learning_rate` is stated for `learning_rate_batch` images a step.

    The linear scaling rule (Goyal et al., "Accurate, Large Minibatch SGD", section 2.1).
    """
    if training.learning_rate_batch is None:
        return training.learning_rate
    return training.learning_rate * training.global_batch / training.learning_rate_batch


def accumulation_steps(training: settings.Training, world: int) -> int:
    """The number of micro-batches of a device in one step: the smallest with which none holds more than
    `images_per_device` images, but not so large that one would be empty.

    Where the processes do not divide the global batch, some micro-batches may therefore hold more: 8 images on 3
    devices with images_per_device=1 give 2 micro-batches a device, of 2, 2, 1, 1, 1 and 1 images.

    Raises:
        UserError: there are more processes than images in a step.
    """
    if training.global_batch < world:
        raise UserError(
            f"global_batch is {training.global_batch}, fewer images than there are processes ({world}): "
            "start fewer processes or raise it"
        )
    return min(-(-training.global_batch // (world * training.images_per_device)), training.global_batch // world)


def batch_in_words(training: settings.Training, world: int) -> str:
    """How `world` devices share a global batch: "16 a step = 8 process(es) × 1 micro-batch(es) of up to 2"."""
    accumulation = accumulation_steps(training, world)
    largest = -(-training.global_batch // (world * accumulation))
    text = f"{training.global_batch} a step = {world} process(es) × {accumulation} micro-batch(es) of up to {largest}"
    if largest > training.images_per_device:
        text += f", more than images_per_device ({training.images_per_device}): {world} do not divide the batch"
    return text


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


def optimizer_for(network: nn.Module, training: settings.Training) -> torch.optim.Optimizer:
    """The optimizer over the parameters of a network, which must already be on its device."""
    return build_optimizer(
        network,
        lr=effective_learning_rate(training),
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=training.weight_decay,
        bias_lr_factor=training.bias_lr_factor,
        bias_weight_decay=training.bias_weight_decay,
        norm_weight_decay=training.norm_weight_decay,
        kind=training.optimizer,
        betas=training.betas,
        layer_decay=training.layer_decay,
    )


def autocast_dtype(runtime: settings.Runtime, device: torch.device) -> torch.dtype | None:
    """The type for autocast; None for float32, and for `auto` that was not decided yet (`decided_precision`)."""
    stated = stated_precision(runtime, device)
    return None if stated is None else stated.dtype
