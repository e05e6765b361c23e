"""Network → SGD with parameter groups: which parameters decay, and at which share of the learning rate each moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from backbones.common.errors import UserError

_NORMALIZATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
# Devices whose fused SGD updates all parameters in one kernel and can skip an update by a flag that stays on the device
# (see loop.py).
_FUSED_DEVICES = ("cpu", "cuda")


def build_optimizer(
    network: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 1e-4,
    bias_lr_factor: float = 1.0,
    bias_weight_decay: bool = True,
    norm_weight_decay: bool = True,
) -> torch.optim.SGD:
    """SGD over the trainable parameters of a network that already lies on its device, in up to three groups.

    - "weight": everything that is neither of the next two;
    - "norm": the scale and shift of normalisation layers; they decay only with `norm_weight_decay`;
    - "bias": the biases of all other layers; they move at `lr · bias_lr_factor` and decay only with
      `bias_weight_decay`. `bias_lr_factor=2.0` is py-faster-rcnn's `lr_mult: 2`, and
      with `bias_weight_decay=False` Detectron's rule for biases.

    Each group keeps its factor as `lr_factor`; `set_learning_rate` applies it. Parameters with `requires_grad=False`
    are left out, and a parameter that two layers share is taken once. Nesterov momentum is the reference Lua code's
    choice for ImageNet; detection uses plain momentum.

    Raises:
        UserError: no parameter is trainable, or a value is out of range.
    """
    if not (lr > 0 and 0 <= momentum < 1 and weight_decay >= 0 and bias_lr_factor >= 0):
        raise UserError(
            f"the optimizer cannot be built: lr {lr} must be above 0, momentum {momentum} in [0, 1), "
            f"weight_decay {weight_decay} and bias_lr_factor {bias_lr_factor} not negative"
        )
    if nesterov and momentum == 0:
        raise UserError("the optimizer cannot be built: nesterov needs a momentum above 0")

    members: dict[str, list[nn.Parameter]] = {"weight": [], "norm": [], "bias": []}
    seen: set[nn.Parameter] = set()
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            kind = "norm" if isinstance(module, _NORMALIZATION) else "bias" if name == "bias" else "weight"
            members[kind].append(parameter)
    if not seen:
        raise UserError("the network has no trainable parameter: every one is frozen")

    lr_factors = {"weight": 1.0, "norm": 1.0, "bias": bias_lr_factor}
    decays = {"weight": True, "norm": norm_weight_decay, "bias": bias_weight_decay}
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "name": kind,
            "lr": lr * lr_factors[kind],
            "lr_factor": lr_factors[kind],
            "weight_decay": weight_decay if decays[kind] else 0.0,
        }
        for kind, parameters in members.items()
        if parameters
    ]
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in seen)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused or None)
    if momentum:
        # Zeros give the same first update as no buffer. Without them, a first update that is skipped on the device (the
        # fp16 scaler's first scale often overflows) would leave the fused kernel's buffers uninitialised.
        for parameter in seen:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives each group its share of `rate`: `rate · lr_factor` (1 where a group names none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)
