"""BN that a source fused into scale and bias → BN with statistics that have no effect.

y = x · scale + bias is BN of mean 0 and variance 1 - eps, exactly: (x - 0) / sqrt(1 - eps + eps) · scale + bias.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

EPS = 1e-5  # of every network here and of every source in the table

_NORMALIZATION = re.compile(r"((?:layer\d+\.\d+\.)?bn\d+|layer\d+\.\d+\.downsample\.1)\.weight")
_CONVOLUTION_BIAS = re.compile(r"(layer\d+\.\d+\.)?(?:conv(\d+)|downsample\.0)\.bias")


def complete(state: dict[str, Tensor]) -> bool:
    """Adds, in place, the missing statistics of fused BN.

    The added tensors take almost no memory: each is one number, expanded to the scale's length.

    Args:
        state: tensors by torchvision's names.

    Returns:
        Whether any BN was fused: then the network must keep its BN frozen, because its statistics are unknown.
    """
    fused = False
    for name in list(state):
        match = _NORMALIZATION.fullmatch(name)
        if match and f"{match[1]}.running_mean" not in state and f"{match[1]}.running_var" not in state:
            state[f"{match[1]}.running_mean"] = torch.zeros(()).expand(state[name].shape)
            state[f"{match[1]}.running_var"] = torch.tensor(1.0 - EPS).expand(state[name].shape)
            fused = True
    return fused


def norm_of_bias(name: str) -> str | None:
    """The name of the BN mean that absorbs the bias `name`; None if it is not a convolution's bias."""
    match = _CONVOLUTION_BIAS.fullmatch(name)
    if match is None:
        return None
    block, number = match[1] or "", match[2]
    return f"{block}bn{number}.running_mean" if number else f"{block}downsample.1.running_mean"


def absorb_convolution_bias(state: dict[str, Tensor]) -> None:
    """Moves, in place, the bias of convolutions into the BN that follows: BN of x + b is BN of x with the mean reduced
    by b.

    Old Caffe, Torch7 with an old cuDNN and their conversions have such biases, mostly zero. Call it after `complete`,
    on tensors whose shapes were checked.
    """
    for name in [name for name in state if name.endswith(".bias")]:
        mean = norm_of_bias(name)
        if mean in state:
            state[mean] = state[mean].detach() - state.pop(name).detach()
