"""A network for inference → the same in bfloat16 or float16, its weights converted once.

Autocast converts the weights of each layer at every call, and its input too. Here both have the low precision from the
start: the input of the trunk is converted, and all maps stay in it. What turns numbers into decisions keeps float32:
the output layers (`precise_layers` of a module names them), and after them the softmax, the decoding of boxes and NMS.
The corners of regions are float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def convert(network: nn.Module, dtype: torch.dtype) -> None:
    """Converts the weights of a network, in place, for inference alone: a pair, an RPN or a Fast R-CNN, with batch
    normalisation folded.

    Its outputs stay float32, and so do the layers that compute them.
    """
    precise = {getattr(module, name) for module in network.modules() for name in getattr(module, "precise_layers", ())}
    for module in network.modules():
        if module in precise:
            module.register_forward_pre_hook(_converting_input(torch.float32))
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
        if hasattr(module, "input_format"):  # a trunk, which is given normalised images in float32
            module.register_forward_pre_hook(_converting_input(dtype))


def _converting_input(dtype: torch.dtype) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def convert_first(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        first: Tensor = inputs[0]
        return first.to(dtype), *inputs[1:]

    return convert_first
