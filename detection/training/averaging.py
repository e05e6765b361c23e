"""Weights of each step → their exponential moving average, which is evaluated and written in place of the last ones.

Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992); the exponential form and
its warm-up are those of TensorFlow's `ExponentialMovingAverage` (`num_updates`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The moving average of what training changes in a network: its trainable parameters and floating-point buffers
    (the running statistics of batch normalisation).

    After update number n (from 1) the average is `d · average + (1 − d) · weights` with `d = min(decay, n / (n + 9))`,
    so that a short run does not keep its random initial weights: after the first update it is mostly that update.

    Args:
        network: on its device; the average starts from its weights.
        decay: in [0, 1); 0.999 averages over about the last 1,000 steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = _changing(network)
        self.values = {name: value.detach().clone() for name, value in self._live.items()}

    def update(self) -> None:
        """Adds the weights that the network has now. Does not wait for the device."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        average, live = list(self.values.values()), [value.detach() for value in self._live.values()]
        get_ema_multi_avg_fn(decay)(average, live, self.updates)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the network has the averaged weights; afterwards it has its own, to the bit."""
        own = {name: value.detach().clone() for name, value in self._live.items()}
        try:
            self.apply()
            yield
        finally:
            self._copy(own)

    def apply(self) -> None:
        """Gives the network the averaged weights."""
        self._copy(self.values)

    def state_dict(self) -> dict[str, Any]:
        """The average as tensors and plain values."""
        return {"values": dict(self.values), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the result of `state_dict`.

        Raises:
            ValueError, KeyError, TypeError: it is of another network.
        """
        values, updates = state["values"], state["updates"]
        if not isinstance(updates, int) or updates < 0:
            raise TypeError(f"the number of averaged steps is {updates!r:.80}")
        shapes = {name: (value.shape, value.dtype) for name, value in values.items()}
        if shapes != {name: (value.shape, value.dtype) for name, value in self.values.items()}:
            raise ValueError("the averaged weights are of another network")
        for name, value in self.values.items():
            value.copy_(values[name])
        self.updates = updates

    @torch.no_grad()
    def _copy(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._live.items():
            value.copy_(values[name])


def _changing(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state dict that training changes, by name; one that two layers share is taken once."""
    saved = network.state_dict().keys()
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    buffers = {name: value for name, value in network.named_buffers() if name in saved and value.is_floating_point()}
    return {**trained, **buffers}
