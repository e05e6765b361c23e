"""The paper's own networks as Torch7 modules → tensors by torchvision's names.

The modules have positions instead of names (facebookresearch/ResNeXt, models/resnext.lua):

    Sequential[conv, bn, relu, pool, stage, stage, stage, stage, average pool, view, linear]      ImageNet
    Sequential[conv, bn, relu, stage, stage, stage, average pool, view, linear]                   CIFAR
    stage  = Sequential[block …]
    block  = Sequential[ConcatTable[residual, shortcut], CAddTable, relu]
    residual = Sequential[conv, bn, relu, conv, bn, relu, conv, bn], possibly with Sequentials inside
    shortcut = Identity, or Sequential[conv, bn]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ...common.errors import UserError
from .fused_norm import EPS
from .torch7 import Object

_CONVOLUTION = "SpatialConvolution"
_NORMALIZATION = "SpatialBatchNormalization"


def to_state_dict(model: Any, path: Path) -> dict[str, Tensor]:
    """A whole ImageNet or CIFAR network → its parameters by torchvision's names.

    Args:
        model: the result of `torch7.load`.
        path: the file, for messages.

    Raises:
        UserError: the object is not such a network.
    """
    try:
        return _Namer().name(model)
    except _Unexpected as error:
        raise UserError(f"{path}: not a ResNeXt of the paper's code: {error}") from error


class _Unexpected(Exception):
    """The object does not have the structure in this module's docstring."""


class _Namer:
    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.visited: set[int] = set()  # a hostile file may nest a module in itself, or twice in each of many

    def name(self, model: Any) -> dict[str, Tensor]:
        stages = 0
        stem: list[Object] = []
        for module in self._children(model, "Sequential"):
            if module.kind == "Linear":
                self.state["fc.weight"], self.state["fc.bias"] = _tensor(module, "weight"), _tensor(module, "bias")
            elif module.kind == "Sequential":
                stages += 1
                for number, block in enumerate(self._children(module, "Sequential")):
                    self._add_block(block, f"layer{stages}.{number}.")
            else:
                stem += self._layers(module)
        self._add_pairs(stem, [("conv1.", "bn1.")])
        return self.state

    def _add_block(self, block: Object, prefix: str) -> None:
        inner = self._children(block, "Sequential")
        branches = self._children(inner[0] if inner else None, "ConcatTable")
        if len(branches) != 2:
            raise _Unexpected(f"{prefix[:-1]} has {len(branches)} branches instead of residual and shortcut")
        residual, shortcut = (list(self._layers(branch)) for branch in branches)
        self._add_pairs(residual, [(f"{prefix}conv{number}.", f"{prefix}bn{number}.") for number in (1, 2, 3)])
        self._add_pairs(shortcut, [(f"{prefix}downsample.0.", f"{prefix}downsample.1.")] if shortcut else [])

    def _layers(self, module: Object) -> Iterator[Object]:
        """The convolutions and normalisations in a chain of modules, in order; modules without weights are skipped."""
        if module.kind == "Sequential":
            for child in self._children(module, "Sequential"):
                yield from self._layers(child)
        elif module.kind.startswith((_CONVOLUTION, _NORMALIZATION)):
            yield module
        elif "weight" in module.fields or "modules" in module.fields:
            raise _Unexpected(f"it contains {module.class_name}; only form (c), with grouped convolutions, is read")

    def _add_pairs(self, layers: list[Object], names: list[tuple[str, str]]) -> None:
        if len(layers) != 2 * len(names):
            expected = ", ".join(name for pair in names for name in pair)
            raise _Unexpected(f"{len(layers)} layers where {expected} are expected")
        for convolution, norm, (convolution_name, norm_name) in zip(layers[::2], layers[1::2], names, strict=True):
            if not (convolution.kind.startswith(_CONVOLUTION) and norm.kind.startswith(_NORMALIZATION)):
                raise _Unexpected(f"{convolution.class_name}, {norm.class_name} instead of a convolution and its BN")
            eps = norm.fields.get("eps", EPS)
            if not isinstance(eps, (int, float)) or abs(eps - EPS) > 1e-9:
                raise _Unexpected(f"BN with eps {eps} instead of {EPS}")
            self.state[convolution_name + "weight"] = _filters(convolution)
            if convolution.fields.get("bias") is not None:
                self.state[convolution_name + "bias"] = _tensor(convolution, "bias")
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.state[norm_name + name] = _tensor(norm, name)

    def _children(self, module: Any, kind: str) -> list[Object]:
        if not isinstance(module, Object) or module.kind != kind:
            found = module.class_name if isinstance(module, Object) else type(module).__name__
            raise _Unexpected(f"{found} where nn.{kind} is expected")
        modules = module.fields.get("modules")
        if not isinstance(modules, dict) or set(modules) != set(range(1, len(modules) + 1)):
            raise _Unexpected(f"{module.class_name} without modules")
        children = [modules[number] for number in range(1, len(modules) + 1)]
        if id(module) in self.visited or not all(isinstance(child, Object) for child in children):
            raise _Unexpected(f"{module.class_name} with modules that are none, or within itself")
        self.visited.add(id(module))
        return children


def _filters(convolution: Object) -> Tensor:
    """The weight as (out, in / groups, kH, kW), for any class's own shape (SpatialConvolutionMM: a matrix)."""
    weight = _tensor(convolution, "weight")
    fields = convolution.fields
    try:
        groups = fields.get("groups", 1)
        # A view: a small file may refer to one storage many times, and each copy would take its size.
        return weight.view(fields["nOutputPlane"], fields["nInputPlane"] // groups, fields["kH"], fields["kW"])
    except (KeyError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise _Unexpected(f"{convolution.class_name} with a weight of shape {tuple(weight.shape)}: {error}") from error


def _tensor(module: Object, name: str) -> Tensor:
    value = module.fields.get(name)
    if not isinstance(value, Tensor):
        raise _Unexpected(f"{module.class_name} without {name}")
    return value
