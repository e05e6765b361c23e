"""The weights of a network ↔ plain tensors for a file; they are loaded only if all of them fit the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

_LISTED = 6  # tensors that an error names


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The weights by name, on the CPU, in contiguous memory order, so that the file does not depend on the device it
    was trained on."""
    return {
        name: value.detach().to("cpu", memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


def build_with_weights(
    build: Callable[[], Network],
    state: Any,
    path: str | os.PathLike[str],
    rename: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]] = lambda state, names: state,
) -> Network:
    """The network that `build` makes, with the weights `state` of the file `path`, on the CPU and in evaluation mode.

    It is first built without memory (on PyTorch's meta device), because the configuration in an untrusted file could
    need any amount. Memory is allocated only if the names, shapes and types of its tensors match those in the file.

    Args:
        rename: (weights, names in the network) → the weights by the names of this version.

    Raises:
        UserError: the network cannot be built, or the weights do not match it; the first that differ are named.
    """
    try:
        with torch.device("meta"):
            expected: dict[str, Tensor] = build().state_dict()
    except UserError as error:
        raise UserError(f"{Path(path)}: {error}") from None
    except (RuntimeError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{Path(path)}: its network cannot be built: {error!r:.200}") from None
    try:
        state = rename(state, expected.keys())
        kinds = {name: (value.shape, value.dtype) for name, value in state.items()}
    except (AttributeError, TypeError) as error:
        raise UserError(f"{Path(path)}: its weights are no tensors by name: {error!r:.200}") from None
    wanted = {name: (value.shape, value.dtype) for name, value in expected.items()}
    names = sorted(wanted.keys() | kinds.keys(), key=str)
    different = [name for name in names if wanted.get(name) != kinds.get(name)]
    if different:
        listed = "; ".join(
            f"{name}: {_described(state.get(name), expected.get(name))} in the file, "
            f"{_described(expected.get(name), state.get(name))} by its configuration"
            for name in different[:_LISTED]
        )
        raise UserError(
            f"{Path(path)}: its weights do not fit the network that its configuration names, in {len(different)} "
            f"place(s): {listed}"
        )
    network = build()
    network.load_state_dict(state)
    return network.eval()


def _described(value: Tensor | None, other: Tensor | None) -> str:
    """A tensor's shape, and its type if only the type differs from `other`."""
    if value is None:
        return "absent"
    differs_in_type = other is not None and value.shape == other.shape
    return f"{value.dtype} {tuple(value.shape)}" if differs_in_type else str(tuple(value.shape))
