"""A training set and a recipe → the micro-batches of each step, from any step on."""

from __future__ import annotations

from collections.abc import Callable

import torch

from detection import config as settings
from detection.data.batch_plan import BatchPlan
from detection.data.dataset import DetectionDataset
from detection.data.loader import training_batches
from detection.data.repeat_factors import repeat_factors
from detection.training.distributed import rank, world_size
from detection.training.recipe import accumulation_steps
from detection.training.stage import Batches


def make_batches(
    config: settings.Config, dataset: DetectionDataset, device: torch.device
) -> Callable[[settings.Training], Batches]:
    """A function: the recipe → first step → this rank's micro-batches from that step to the end of the training."""

    def batches(training: settings.Training) -> Batches:
        threshold = config.data.repeat_threshold
        plan = BatchPlan(
            dataset.index.aspect_ratios,
            training.global_batch,
            dataset.seed,
            config.data.group_by_aspect,
            None if threshold is None else repeat_factors(dataset.index, threshold),
        )
        return lambda first_step: training_batches(
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
            patience=60 * config.runtime.timeout_minutes,
        )

    return batches
