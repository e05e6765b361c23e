"""A network → the same with other rounding, which shows where rounding decides what is detected."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from detection.networks.detections import Candidates
from detection.networks.faster_rcnn import FasterRCNN
from detection.networks.rpn import Proposals

MOVE = 2.0**-10  # pixels of the network's input, about the rounding of a proposal's coordinates


def rounded_otherwise(network: FasterRCNN, seed: int) -> FasterRCNN:
    """A copy of the network, in float32, in which these change at random by no more than rounding may:

    weights, by one unit in the last place: then proposals of almost equal scores change their order;
    proposals, by at most `MOVE`: RoI max-pooling rounds their sides to cells;
    scores, by two units in the last place: many are 1 to seven digits, and the first of them suppresses the others.
    """
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    unit = torch.finfo(torch.float32).eps
    propose, candidates = network.propose, network.fast_rcnn.candidates

    def draw(like: Tensor) -> Tensor:
        return 2 * torch.rand(like.shape, generator=generator) - 1

    def moved(*arguments: Any) -> Proposals:
        found = propose(*arguments)
        return found._replace(boxes=found.boxes + MOVE * draw(found.boxes))

    def rescored(*arguments: Any, **options: Any) -> Candidates:
        found = candidates(*arguments, **options)
        return found._replace(scores=found.scores * (1 + 2 * unit * draw(found.scores)))

    network.propose = moved  # type: ignore[assignment, method-assign]
    network.fast_rcnn.candidates = rescored  # type: ignore[method-assign]
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1 + unit * draw(weights).sign())
    return network
