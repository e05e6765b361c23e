"""The gradient of a step → the update of the weights, which is skipped if the step is not finite.

The host does not wait for a GPU: the flag of a bad step stays on the device, and the fused optimizer skips the update
by it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError

_LEAST_SCALE = 2.0**-14  # of float16's loss; reached after a long series of steps with gradients that are not finite


def clipped_norm(network: nn.Module, clip_norm: float | None) -> Tensor:
    """The norm () of the whole gradient, before it is clipped to `clip_norm`; stays on the device."""
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, clip_norm)
    return nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


def skips_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether the optimizer skips a bad update by a flag on the GPU; if not, the host checks before each update."""
    return device.type == "cuda" and _is_fused(optimizer)


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, bad: Tensor) -> None:
    """Runs one step of the optimizer, with the scaler if there is one; a fused optimizer skips it if `bad` () is 1."""
    if scaler is not None:
        scaler.step(optimizer)
        scaler.update()
    elif _is_fused(optimizer):
        # GradScaler uses the same attribute to make a fused optimizer skip an update.
        optimizer.found_inf = bad  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
    else:
        optimizer.step()


def poison_gradients(network: nn.Module, bad: Tensor) -> None:
    """Makes the gradient infinite if `bad` () is 1, so that the scaler, which checks only gradients, skips the update.
    Does not wait for the device."""
    gradients = (parameter.grad for parameter in network.parameters() if parameter.grad is not None)
    if (gradient := next(gradients, None)) is not None:
        gradient.masked_fill_(bad.bool(), torch.inf)


def require_scale(scaler: torch.amp.GradScaler | None, step: int) -> None:
    """Raises a UserError if the loss scale has become too small, before it reaches 0 and the weights are not finite."""
    if scaler is not None and scaler.get_scale() < _LEAST_SCALE:
        raise UserError(
            f"step {step}: float16's loss scale has fallen below {_LEAST_SCALE:g}, since the gradients keep being not "
            "finite. Use runtime.precision=bf16 or fp32, or lower the learning rate; go on from an earlier checkpoint."
        )


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    return getattr(optimizer, "_step_supports_amp_scaling", False)
