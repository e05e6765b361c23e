"""A network → the network on a device, with the memory order and the kernels that are fastest there."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from backbones import fastest_grouped_convolutions, fold_batch_norm, onednn_pointwise_convolutions
from backbones.common.errors import UserError
from detection import config as settings
from detection.training.distributed import world_size
from detection.training.memory import keep_freed_memory

Network = TypeVar("Network", bound=nn.Module)


def placed(network: Network, runtime: settings.Runtime, device: torch.device) -> Network:
    """The network on its device, in the configured memory order, with the configured grouped convolutions and kernels,
    and with 1×1 convolutions for oneDNN (`onednn_pointwise_convolutions`).

    On a CPU, the parameters of a module with a `cpu_memory_format` are in that order, independent of the configuration.

    Raises:
        UserError: the network has synchronised batch normalisation, and several ranks compute on CPUs.
    """
    if device.type == "cpu" and world_size() > 1:
        _refuse_sync_batch_norm(network)
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    network = network.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    onednn_pointwise_convolutions(network)
    if runtime.grouped_convolutions == "fastest":
        fastest_grouped_convolutions(network)
    if device.type == "cpu":
        for module in network.modules():
            own_format = getattr(module, "cpu_memory_format", None)
            if own_format is not None:
                module.to(memory_format=own_format)
    if any(hasattr(module, "kernels") for module in network.modules()):
        # Imported here, because a classifier has no choice of kernels: its training loads nothing of boxes.
        from detection.kernels.choice import PLAIN, kernels_for, use_kernels

        use_kernels(network, kernels_for(device) if runtime.kernels == "fastest" else PLAIN)
    return network


def _refuse_sync_batch_norm(network: nn.Module) -> None:
    """PyTorch's SyncBatchNorm exchanges statistics on GPUs only; on CPUs its first step in training would fail."""
    if any(isinstance(module, nn.SyncBatchNorm) for module in network.modules()):
        raise UserError(
            "backbone.norm or backbone.pyramid_norm: sync_batch needs GPUs where several processes train: PyTorch's "
            "SyncBatchNorm does not exchange statistics between CPUs. Take batch, whose statistics are those of each "
            "process's own images, or group; one process may keep sync_batch, which is then the same as batch"
        )


def for_inference(network: Network, runtime: settings.Runtime, device: torch.device) -> Network:
    """A copy of the network on the device, in evaluation mode, with batch normalisation folded into the convolutions
    before it. Its state dict differs from that of the network.

    On a CPU this calls `keep_freed_memory`, which changes the whole process.
    """
    if device.type == "cpu":
        keep_freed_memory()
    return placed(fold_batch_norm(network), runtime, device)  # type: ignore[return-value]
