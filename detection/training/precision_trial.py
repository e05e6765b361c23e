"""A stage whose `runtime.precision` is auto → the same stage with fp32 or bf16, decided by a measured step.

The decision is made at the first start of a run and kept in its checkpoints, so that a run that is resumed, here or on
another machine, goes on in the same precision. Weights, gradients and the optimizer are float32 in either.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

import torch
from torch import Tensor, nn

from detection.training.distributed import on_main
from detection.training.micro_batches import Losses, TrainingBatch, backward, next_parts, stream_of
from detection.training.precision import (
    LARGEST_LOSS_ERROR,
    Name,
    Precision,
    described,
    has_bf16,
    is_small,
    judge,
    remembered,
    stated_precision,
)
from detection.training.random_state import preserved_random_state
from detection.training.stage import Stage

_ROUNDS = 3


def decided(stage: Stage, earlier: Name | None = None) -> tuple[Stage, Precision]:
    """The stage in its precision, and the reason. Every rank calls this.

    earlier: the precision of the checkpoint that the run goes on from; it counts where the configuration says auto.
    """
    chosen = stated_precision(stage.runtime, stage.device)
    if stage.runtime.precision == "auto" and earlier is not None:
        chosen = Precision(earlier, "as the run began")
        if earlier == "bf16" and stage.device.type == "cpu" and not has_bf16():
            chosen = Precision("fp32", "the run began in bf16, for which this processor has no instructions")
    if chosen is None:
        chosen = _measured(stage)
    return dataclasses.replace(stage, runtime=dataclasses.replace(stage.runtime, precision=chosen.name)), chosen


def _measured(stage: Stage) -> Precision:
    batches = stage.batches(dataclasses.replace(stage.training, steps=1))
    with closing(stream_of(batches, 0)) as stream:  # on every rank: the loaders of all of them start together
        (batch,) = next_parts(stream, 1, 1)
    images = getattr(batch, "images", None)
    if not isinstance(images, Tensor):
        return Precision("fp32", "auto needs batches of images")
    small = is_small(stage.network, *images.shape[2:])

    def choose() -> Precision:
        if small is not None:
            return small
        about = described(stage.network, f"training, {stage.name}", stage.runtime, image=list(images.shape))
        return remembered(about, lambda: measure_step(stage.network, batch, stage.device))

    return on_main(choose)


def measure_step(
    network: nn.Module, batch: TrainingBatch, device: torch.device
) -> tuple[Precision, Mapping[str, float]]:
    """The choice for forward and backward of one micro-batch, and the numbers that it rests on. The network's state is
    left as it is."""
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    was_training = network.training
    network.train()
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    losses: dict[str, float] = {}
    try:
        for _ in range(_ROUNDS + 1):
            for name, autocast in (("fp32", None), ("bf16", torch.bfloat16)):
                with preserved_random_state():
                    begin = time.perf_counter()
                    found = backward(network, [batch], device=device, factor=1.0, autocast=autocast)
                    seconds[name].append(time.perf_counter() - begin)
                losses.setdefault(name, _total(network, found))
                network.zero_grad(set_to_none=True)
    finally:
        network.zero_grad(set_to_none=True)
        network.train(was_training)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
    error = abs(losses["bf16"] - losses["fp32"]) / max(abs(losses["fp32"]), 1e-12)
    fp32, bf16 = (statistics.median(own[1:]) for own in seconds.values())
    chosen = judge(fp32, bf16, error, LARGEST_LOSS_ERROR, "a step's images", "its loss differs by")
    return chosen, {"fp32_seconds": fp32, "bf16_seconds": bf16, "error": error}


def _total(network: nn.Module, losses: Sequence[Losses]) -> float:
    """The sum of all losses; NaN if a gradient is not finite."""
    gradients = (parameter.grad for parameter in network.parameters() if parameter.grad is not None)
    is_finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    return float(sum(loss.float().sum() for _, terms in losses for loss in terms.values())) if is_finite else math.nan
