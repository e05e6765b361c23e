"""Normalisation layers, frozen batch normalisation, and its folding into convolutions.

    make_normalization(kind, channels) → layer    one of `NORMALIZATIONS`, under the same attribute names
    freeze_batch_norm(module)          → in place: every BatchNorm2d becomes a FrozenBatchNorm2d that computes the same
    fold_batch_norm(module)            → a copy for inference whose convolutions include their BN
    conv_norm(conv, norm, x)           → norm(conv(x)), as one convolution if the norm is frozen

Maps are (N, C, H, W).
"""

from __future__ import annotations

import copy
import math
import re
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.errors import UserError
from .grouped import GroupedConvolution
from .pointwise import PointwiseConvolution

NORMALIZATIONS = ("batch", "sync_batch", "frozen", "group")
BATCH_NORM = (nn.BatchNorm2d, nn.SyncBatchNorm)  # trainable, with statistics of the batch


class _FixedAffine(torch.autograd.Function):
    """Batch normalisation by fixed statistics. It saves C numbers for the backward pass; autograd's own would save the
    whole input map."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(variance, weight)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        variance, weight = ctx.saved_tensors
        scale = (weight * torch.rsqrt(variance + ctx.eps)).to(gradient.dtype)
        return gradient * scale[:, None, None], None, None, None, None, None


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics and affine terms are constants: it computes the same in training and in
    evaluation mode.

    y = (x - running_mean) / sqrt(running_var + eps) * weight + bias, one fused multiply-add per value. The four are
    buffers with BatchNorm2d's names, so the state dict of either class loads into the other. eps is 1e-5, as in
    training: ResNeXt has channels of nearly zero variance, which give NaN with an eps of 0. Under autocast the map
    keeps its low precision and the statistics keep theirs.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        if x.requires_grad and torch.is_grad_enabled():
            return _FixedAffine.apply(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)  # BatchNorm2d's counter is not used here
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def make_normalization(kind: str, channels: int) -> nn.Module:
    """The layer that follows a convolution of `channels` outputs.

    Args:
        kind: "batch" (trainable, statistics of the batch), "sync_batch" (the same, in training with statistics of the
            batches of all ranks, on GPUs; its layer is PyTorch's), "frozen" (constants) or "group" (GroupNorm of 32
            groups, or of the greatest common divisor of 32 and `channels` where 32 does not divide them).

    Raises:
        UserError: another kind.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "sync_batch":
        return nn.SyncBatchNorm(channels)
    if kind == "frozen":
        return FrozenBatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    raise UserError(f"unknown normalisation {kind!r}; choose one of {', '.join(NORMALIZATIONS)}")


def freeze_batch_norm(module: nn.Module) -> nn.Module:
    """Replaces, in place, every BatchNorm2d or SyncBatchNorm under `module` by a FrozenBatchNorm2d with the same
    numbers.

    Returns:
        `module`, or its replacement if it is a BatchNorm2d itself.

    Raises:
        UserError: a BatchNorm2d without running statistics.
    """
    if isinstance(module, BATCH_NORM):
        if module.running_mean is None or module.running_var is None:
            raise UserError(
                "a BatchNorm2d without running statistics cannot be frozen; build it with track_running_stats=True"
            )
        frozen = FrozenBatchNorm2d(module.num_features, module.eps).to(module.running_mean)
        frozen.load_state_dict(module.state_dict(), strict=module.affine)
        return frozen.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norm(child))
    return module


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """A copy of `module` for inference in which each convolution includes the batch normalisation that follows it.

    Weights are computed in float64. Pairs are found by the names of these networks, of torchvision's and of timm's:
    `bn1` follows `conv1`, and in a Sequential the normalisation directly follows its convolution (not for networks that
    normalise first). It is replaced by Identity. GroupNorm is kept, because it depends on its input; so is BN after a
    sum of convolutions (form a).

    The copy is in evaluation mode and cannot be trained; `module` is not changed.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in folded.modules():
        children = dict(parent.named_children())
        names = list(children)
        for position, name in enumerate(names):
            convolution = children[name]
            numbered = re.fullmatch(r"conv(\d+)", name)
            if isinstance(parent, nn.Sequential):
                following = names[position + 1] if position + 1 < len(names) else ""
            else:
                following = f"bn{numbered[1]}" if numbered else ""
            normalization = children.get(following)
            if _is_convolution(convolution) and isinstance(normalization, (*BATCH_NORM, FrozenBatchNorm2d)):
                _fold_into(convolution, normalization)
                setattr(parent, following, nn.Identity())
    return folded


def conv_norm(convolution: nn.Module, normalization: nn.Module, x: Tensor) -> Tensor:
    """normalization(convolution(x)): (N, C_in, H, W) → (N, C, H', W').

    Frozen BN is folded into the weight when the layer runs: y = conv(x, w · s) + b. In the forward and in the backward
    pass this saves one pass over the map (the gradient of w is s times that of w · s) and costs one over the weight, so
    it is done only if the map is larger than the weight. Under autocast the weight is folded in float32 and only the
    convolution is in low precision. Layers of other classes and layers with hooks are not folded. Under torch.compile
    no layer is folded: it fuses the affine map itself and would recompile whenever the condition changes.
    """
    if (
        _is_convolution(convolution)
        and type(normalization) is FrozenBatchNorm2d
        and not torch.compiler.is_compiling()
        and not (_has_hooks(convolution) or _has_hooks(normalization))
        and x.shape[0] * x.shape[2:].numel() > convolution.weight[0].numel() * math.prod(convolution.stride)
    ):
        dtype = convolution.weight.dtype
        weight, bias = fold_weights(convolution, normalization, torch.promote_types(dtype, torch.float32))
        return convolution._conv_forward(x, weight.to(dtype), bias.to(dtype))
    return normalization(convolution(x))


def fold_weights(
    convolution: nn.Conv2d, normalization: nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Weight and bias (C,) of the single convolution that computes normalization(convolution(x)) with fixed statistics:
    w' = w · γ / sqrt(σ² + eps), b' = β + (b - μ) · γ / sqrt(σ² + eps), in `dtype`.

    Raises:
        UserError: a BatchNorm2d without running statistics.
    """
    mean, variance = normalization.running_mean, normalization.running_var
    if mean is None or variance is None:
        raise UserError(
            "a BatchNorm2d without running statistics cannot be folded; build it with track_running_stats=True"
        )
    scale = torch.rsqrt(variance.to(dtype) + normalization.eps)
    if normalization.weight is not None:
        scale = scale * normalization.weight.to(dtype)
    bias = -mean.to(dtype) if convolution.bias is None else convolution.bias.to(dtype) - mean.to(dtype)
    bias = bias * scale
    if normalization.bias is not None:
        bias = bias + normalization.bias.to(dtype)
    return convolution.weight.to(dtype) * scale[:, None, None, None], bias


def _is_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it computes a plain convolution; a subclass may compute something else."""
    return type(module) in (nn.Conv2d, GroupedConvolution, PointwiseConvolution)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _fold_into(convolution: nn.Conv2d, normalization: nn.BatchNorm2d | nn.SyncBatchNorm | FrozenBatchNorm2d) -> None:
    weight, bias = fold_weights(convolution, normalization, torch.float64)
    dtype = convolution.weight.dtype
    memory_format = (
        torch.channels_last
        if convolution.weight.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    convolution.weight = nn.Parameter(weight.to(dtype, memory_format=memory_format), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
