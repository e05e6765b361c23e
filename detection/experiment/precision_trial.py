"""A network for inference and images → the seconds that it takes in fp32 and in bf16, and the error of bf16.

The error is a mean difference of probabilities: of objectness, over the anchors that the RPN thinks most of, and of the
class that changes most, over the proposals of the fp32 network. The larger one counts.

Shapes: N images, A anchors, R proposals.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from detection.data.batches import Batch
from detection.networks.fast_rcnn import FastRCNN
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import RPN
from detection.training.low_precision import convert
from detection.training.precision import LARGEST_ERROR, Precision, judge

_ROUNDS = 3
_ANCHORS = 1000


@torch.inference_mode()
def measure_inference(network: FasterRCNN | RPN, batch: Batch) -> tuple[Precision, Mapping[str, float]]:
    """The choice for a pair or an RPN, prepared for inference on a CPU in fp32, and the numbers that it rests on."""
    low = copy.deepcopy(network)
    convert(low, torch.bfloat16)
    error = _error(network, low, batch)
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(_ROUNDS):
        for name, one in (("fp32", network), ("bf16", low)):
            seconds[name].append(_seconds(one, batch))
    fp32, bf16 = (statistics.median(own) / len(batch) for own in seconds.values())
    chosen = judge(fp32, bf16, error, LARGEST_ERROR, "an image", "probabilities differ by")
    return chosen, {"fp32_seconds": fp32, "bf16_seconds": bf16, "error": error}


def _error(network: FasterRCNN | RPN, low: FasterRCNN | RPN, batch: Batch) -> float:
    exact, coarse = (_objectness(one, batch) for one in (network, low))
    best = exact.topk(min(_ANCHORS, exact.shape[1]), dim=1).indices
    errors = [(exact.gather(1, best) - coarse.gather(1, best)).abs().mean().item()]
    if isinstance(network, FasterRCNN) and isinstance(low, FasterRCNN):
        regions = network.propose(batch.images, batch.sizes, batch.original_sizes).boxes
        exact, coarse = (_probabilities(one.fast_rcnn, batch, regions) for one in (network, low))
        errors.append((exact - coarse).abs().amax(dim=2).mean().item())
    return max(errors)


def _probabilities(network: FastRCNN, batch: Batch, regions: Tensor) -> Tensor:
    """Of each class for regions (N, R, 4), (N, R, K)."""
    return network.score(network.feature_maps(batch.images, batch.sizes), batch.sizes, regions).probabilities


def _objectness(network: FasterRCNN | RPN, batch: Batch) -> Tensor:
    """Of all anchors, (N, A), in 0–1."""
    rpn = network if isinstance(network, RPN) else network.rpn
    return rpn.predict(batch.images, batch.sizes).logits.sigmoid()


def _seconds(network: FasterRCNN | RPN, batch: Batch) -> float:
    begin = time.perf_counter()
    if isinstance(network, RPN):
        network.predict(batch.images, batch.sizes)
    else:
        network(batch.images, batch.sizes, batch.original_sizes)
    return time.perf_counter() - begin
