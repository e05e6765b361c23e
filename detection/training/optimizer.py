"""Network → SGD or AdamW with parameter groups, each with its weight decay and its factor of the learning rate."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError
from backbones.common.names import did_you_mean

_NORMALIZATION = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
# Devices whose fused optimizers update all parameters in one kernel and can skip an update by a device-side flag (see
# the description of finite numbers in loop.py).
_FUSED_DEVICES = ("cpu", "cuda")
_MEANS = ("fused", "foreach", "capturable", "differentiable")  # how an optimizer computes, not what
_TOP = 5  # the layers above the backbone's stages, in `stage_of`
_NUMBERS = ("step", "eta", "mu", "mu_product")  # entries of a parameter's state that are one number


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
    kind: Literal["sgd", "adamw"] = "sgd",
    betas: tuple[float, float] = (0.9, 0.999),
    layer_decay: float = 1.0,
) -> torch.optim.SGD | torch.optim.AdamW:
    """SGD or AdamW over the trainable parameters of a network that already lies on its device, in up to three groups.

    - "weight": all parameters that are in neither of the other two groups;
    - "norm": the scale and shift of normalisation layers; they decay only with `norm_weight_decay`;
    - "bias": the biases of all other layers; they have the learning rate `lr · bias_lr_factor` and decay only with
      `bias_weight_decay`. `bias_lr_factor=2.0` is py-faster-rcnn's `lr_mult: 2`, and together with
      `bias_weight_decay=False` it is Detectron's rule for biases.

    With `layer_decay` below 1 there are up to three such groups for each stage of the backbone ("weight.0" …), and the
    rate of a stage is `layer_decay` times that of the next one that the network has: conv1, conv2_x … conv5_x, and all
    other layers, which have the whole rate (Clark et al., "ELECTRA", 2020; by stages as in ConvNeXt's fine-tuning).

    "adamw" is Adam with decoupled weight decay (Loshchilov and Hutter, 2019) and `betas`; `momentum` and `nesterov`
    belong to SGD.

    Each group keeps its factor as `lr_factor`; `set_learning_rate` applies it. Parameters with `requires_grad=False`
    are left out, and a parameter that two layers share is taken once. The reference Lua code uses Nesterov momentum for
    ImageNet; detection uses plain momentum.

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

    if not 0 < layer_decay <= 1:
        raise UserError(f"the optimizer cannot be built: layer_decay must lie in 0–1, not {layer_decay}")

    kinds = ("weight", "norm", "bias")
    members: dict[tuple[int, str], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for path, module in network.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            group = "norm" if isinstance(module, _NORMALIZATION) else "bias" if name == "bias" else "weight"
            stage = _TOP if layer_decay == 1 else stage_of(f"{path}.{name}")
            members.setdefault((stage, group), []).append(parameter)
    if not seen:
        raise UserError("the network has no trainable parameter: every one is frozen")

    lr_factors = {"weight": 1.0, "norm": 1.0, "bias": bias_lr_factor}
    decays = {"weight": True, "norm": norm_weight_decay, "bias": bias_weight_decay}
    stages = sorted({stage for stage, _ in members}, reverse=True)
    groups: list[dict[str, Any]] = []
    for stage, group in sorted(members, key=lambda key: (key[0], kinds.index(key[1]))):
        factor = lr_factors[group] * layer_decay ** stages.index(stage)
        groups.append(
            {
                "params": members[stage, group],
                "name": group if layer_decay == 1 else f"{group}.{stage}",
                "lr": lr * factor,
                "lr_factor": factor,
                "weight_decay": weight_decay if decays[group] else 0.0,
            }
        )
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in seen) or None
    if kind == "adamw":
        return _with_state(torch.optim.AdamW(groups, lr=lr, betas=betas, fused=fused))
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if momentum:
        # A buffer of zeros gives the same first update as no buffer. Without it, a first update that is skipped on the
        # device (the first fp16 scale often overflows) would leave the fused kernel's buffers uninitialised.
        for parameter in seen:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def stage_of(name: str) -> int:
    """The stage of the backbone that a parameter belongs to: 0 for conv1, 1–4 for conv2_x–conv5_x, and `_TOP` for all
    layers that are not of the backbone's.

    >>> [stage_of(n) for n in ("backbone.bn1.weight", "trunk.layer3.0.conv1.weight", "box_head.conv5.0.conv1.weight")]
    [0, 3, 4]
    """
    if found := re.search(r"(?:^|\.)layer(\d)\.", name):
        return int(found[1])
    if re.search(r"(?:^|\.)conv5\.", name):
        return 4
    return 0 if re.search(r"^(?:backbone\.|trunk\.)*(?:conv1|bn1)\.", name) else _TOP


def freeze_parameters(network: nn.Module, patterns: Sequence[str]) -> None:
    """Excludes the parameters whose names match one of the patterns (`*`, `?`, `[…]`) from the training.

    Raises:
        UserError: a pattern matches no parameter.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        matching = fnmatch.filter(parameters, pattern)
        if not matching:
            hint = did_you_mean(pattern.rstrip("*?."), parameters) or f"; one of them is {next(iter(parameters))}"
            raise UserError(f"training.freeze: no parameter of the network matches {pattern!r}{hint}")
        for name in matching:
            parameters[name].requires_grad_(False)


def _with_state(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """The optimizer with the state that its first step would create, by which a checkpoint's is compared."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            device = parameter.device if group["fused"] else None
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of each group to `rate · lr_factor` (with a factor of 1 where a group has none)."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Loads the `state_dict` of an optimizer over the same parameters, after checking each tensor: the fused kernels
    use the parameters' shapes, and would read and write beyond the end of a shorter buffer.

    Whether updates are fused is kept from this optimizer, not loaded: another device may have no fused kernel.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: it does not fit.
    """
    own = optimizer.state_dict()
    groups: list[dict[str, Any]] = []
    for ours, theirs in zip(own["param_groups"], saved["param_groups"], strict=True):
        for key, value in ours.items():
            if key not in ("lr", *_MEANS) and key in theirs and theirs[key] != value:
                raise ValueError(
                    f"{key} of the optimizer's group {ours.get('name', '')!r} is {value!r:.80} here and "
                    f"{theirs[key]!r:.80} there"
                )
        if not isinstance(theirs["lr"], (int, float)):
            raise TypeError(f"the optimizer's learning rate is {theirs['lr']!r:.80}")
        groups.append({**ours, "lr": theirs["lr"]})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in own["param_groups"] for number in group["params"]]
    strangers = saved["state"].keys() - set(numbers)
    if strangers:
        raise ValueError(f"the optimizer has no parameter {next(iter(strangers))!r:.80}")
    for number, parameter in zip(numbers, parameters, strict=True):
        expected, found = own["state"].get(number), saved["state"].get(number, {})
        if expected is not None and found.keys() != expected.keys():
            raise ValueError(f"the optimizer keeps {list(expected)} of a parameter, not {list(found)!r:.80}")
        for key, value in found.items():
            _require_fit(key, value, parameter)
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
    _lay_out_as_parameters(optimizer)


def _require_fit(key: Any, value: Any, parameter: Tensor) -> None:
    """Checks that an entry of the optimizer's state for a parameter has its shape and type, or is a number if `key` is
    in `_NUMBERS`."""
    if key in _NUMBERS:
        if not isinstance(value, (int, float)) and not (isinstance(value, Tensor) and value.ndim == 0):
            raise TypeError(f"what the optimizer keeps as {key!r} is no number")
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"what the optimizer keeps as {key!r:.80} is a {type(value).__name__}")
    if value.shape != parameter.shape or value.dtype != parameter.dtype:
        raise ValueError(
            f"what the optimizer keeps as {key!r:.80} of a parameter of shape {tuple(parameter.shape)} and type "
            f"{parameter.dtype} has the shape {tuple(value.shape)} and the type {value.dtype}"
        )


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Copies the optimizer's state for each parameter into the parameter's memory order, which may differ from that of
    the run that saved it: a fused optimizer treats both as flat arrays, and would update the wrong numbers."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
