"""Blocks that compute the same function in other forms (Fig. 3 and Fig. 4), and the exact conversions between them.

    (a) SplitBottleneck          C paths of 1×1 → 3×3 → 1×1, summed
    (b) ConcatenatedBottleneck   C paths of 1×1 → 3×3, concatenated, then one 1×1 (as in Inception-ResNet)
    (c) Bottleneck               one 1×1, one 3×3 of C groups, one 1×1: `blocks.py`

    x (N, C_in, H, W) → (N, 4n, ceil(H/s), ceil(W/s))     n planes of the stage, s stride, C cardinality

BN and ReLU follow the first two convolutions of a path, path by path; the last BN follows the aggregation and precedes
the addition of the shortcut, in all three forms. BN is computed for each channel separately, so the conversion of the
weights is exact. In blocks of two layers (Fig. 4), the aggregation (`AggregatedTwoLayer`) is equal to a single wide
block (`WideTwoLayer`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import AggregatedBottleneck, Bottleneck, ResidualBlock
from .common.errors import UserError
from .normalization import FrozenBatchNorm2d, conv_norm, make_normalization


class _Path(nn.Module):
    """One of the C transformations: 1×1 → 3×3, and in form (a) → 1×1."""

    def __init__(self, block: AggregatedBottleneck, *, whole: bool) -> None:
        super().__init__()
        width = block.group_width // block.cardinality
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, bias=False)
        self.bn1 = make_normalization(block.norm, width)
        self.conv2 = nn.Conv2d(width, width, 3, block.stride, block.dilation, block.dilation, bias=False)
        self.bn2 = make_normalization(block.norm, width)
        self.conv3 = nn.Conv2d(width, block.out_channels, 1, bias=False) if whole else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)
        out = F.relu(conv_norm(self.conv2, self.bn2, out), inplace=True)
        return self.conv3(out)


class SplitBottleneck(AggregatedBottleneck):
    """Form (a): separate paths, summed. BN directly follows the aggregation."""

    def add_layers(self) -> None:
        _require_channelwise(self.norm)
        self.paths = nn.ModuleList(_Path(self, whole=True) for _ in range(self.cardinality))
        self.bn3 = make_normalization(self.norm, self.out_channels)

    def transform(self, x: Tensor) -> Tensor:
        return self.bn3(sum(path(x) for path in self.paths))


class ConcatenatedBottleneck(AggregatedBottleneck):
    """Form (b): the paths are concatenated before the last convolution."""

    def add_layers(self) -> None:
        _require_channelwise(self.norm)
        self.paths = nn.ModuleList(_Path(self, whole=False) for _ in range(self.cardinality))
        self.conv3 = nn.Conv2d(self.group_width, self.out_channels, 1, bias=False)
        self.bn3 = make_normalization(self.norm, self.out_channels)

    def transform(self, x: Tensor) -> Tensor:
        return conv_norm(self.conv3, self.bn3, torch.cat([path(x) for path in self.paths], dim=1))


FORMS: dict[str, type[AggregatedBottleneck]] = {"a": SplitBottleneck, "b": ConcatenatedBottleneck, "c": Bottleneck}


class AggregatedTwoLayer(ResidualBlock):
    """Fig. 4, left: C paths of 3×3 (to d channels) → 3×3 (to `out_channels`), summed.

    The sum of C such paths is one dense block of width C · d, exactly `WideTwoLayer`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        path_width: int,
        cardinality: int,
        *,
        stride: int = 1,
        norm: str = "batch",
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm, residual=True)
        _require_channelwise(norm)
        self.paths = nn.ModuleList()
        for _ in range(cardinality):
            path = nn.Sequential()
            path.add_module("conv1", nn.Conv2d(in_channels, path_width, 3, stride, 1, bias=False))
            path.add_module("bn1", make_normalization(norm, path_width))
            path.add_module("relu", nn.ReLU(inplace=True))
            path.add_module("conv2", nn.Conv2d(path_width, out_channels, 3, 1, 1, bias=False))
            self.paths.append(path)
        self.bn2 = make_normalization(norm, out_channels)
        self.add_shortcut()

    def transform(self, x: Tensor) -> Tensor:
        return self.bn2(sum(path(x) for path in self.paths))


class WideTwoLayer(ResidualBlock):
    """Fig. 4, right: 3×3 (to `width` channels) → 3×3, both dense. Parameter names are those of ResNet-18's block."""

    def __init__(
        self, in_channels: int, out_channels: int, width: int, *, stride: int = 1, norm: str = "batch"
    ) -> None:
        super().__init__(in_channels, out_channels, stride=stride, norm=norm, residual=True)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = make_normalization(norm, width)
        self.conv2 = nn.Conv2d(width, out_channels, 3, 1, 1, bias=False)
        self.bn2 = make_normalization(norm, out_channels)
        self.add_shortcut()

    def transform(self, x: Tensor) -> Tensor:
        out = F.relu(conv_norm(self.conv1, self.bn1, x), inplace=True)
        return conv_norm(self.conv2, self.bn2, out)


def split_paths(state: Mapping[str, Tensor], cardinality: int, *, last: str | None) -> dict[str, Tensor]:
    """A whole block's tensors → those of its C paths, named `paths.<i>.<name>`.

    Every layer whose output stays inside a path is split along its output channels; the last layer of a path, `last`,
    along its input channels. Layers after the aggregation keep their names.

    Args:
        state: tensors by name; a state dict, or the gradients of one.
        cardinality: C.
        last: the last convolution of a path ("conv3" in form a, "conv2" with two layers); None in form (b), where the
            last convolution follows the concatenation.
    """
    inner = _inner_layers(last)
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer = name.split(".")[0]
        if layer not in inner and layer != last:
            result[name] = tensor
            continue
        if tensor.dim() == 0:  # num_batches_tracked
            pieces: list[Tensor] = [tensor] * cardinality
        else:
            pieces = list(tensor.chunk(cardinality, dim=1 if layer == last else 0))
        result.update((f"paths.{path}.{name}", piece) for path, piece in enumerate(pieces))
    return result


def join_paths(state: Mapping[str, Tensor], *, last: str | None) -> dict[str, Tensor]:
    """The inverse of `split_paths`."""
    result: dict[str, Tensor] = {}
    pieces: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        if name.startswith("paths."):
            _, path, rest = name.split(".", 2)
            pieces.setdefault(rest, {})[int(path)] = tensor
        else:
            result[name] = tensor
    for name, by_path in pieces.items():
        tensors = [by_path[path] for path in sorted(by_path)]
        if tensors[0].dim() == 0:
            result[name] = tensors[0]
        else:
            result[name] = torch.cat(tensors, dim=1 if name.split(".")[0] == last else 0)
    return result


def convert_state(state: Mapping[str, Tensor], source: str, target: str, cardinality: int) -> dict[str, Tensor]:
    """A block's tensors in form `source` ("a", "b" or "c") → the same in form `target`, exactly; also for gradients."""
    last = {"a": "conv3", "b": None}
    grouped = dict(state) if source == "c" else join_paths(state, last=last[source])
    return grouped if target == "c" else split_paths(grouped, cardinality, last=last[target])


def convert(block: AggregatedBottleneck, form: str) -> AggregatedBottleneck:
    """A new block of form "a", "b" or "c" equivalent to `block`: same function, gradients and running statistics.
    Frozen parts stay frozen.

    Raises:
        UserError: an unknown form, a block of none of the three forms, a block with folded BN, or with GroupNorm, whose
            groups extend over several paths.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r} of the aggregated block; choose one of {', '.join(FORMS)} (Fig. 3)")
    source = next((letter for letter, kind in FORMS.items() if type(block) is kind), None)
    if source is None or isinstance(block.bn3, nn.Identity):
        raise UserError(f"{type(block).__name__}: only blocks of the forms a, b and c, with their BN, can be converted")
    converted = FORMS[form](
        block.in_channels,
        block.planes,
        block.group_width,
        block.cardinality,
        stride=block.stride,
        dilation=block.dilation,
        norm="frozen" if isinstance(block.bn3, FrozenBatchNorm2d) else block.norm,
        residual=block.residual,
    ).to(next(iter(block.state_dict().values())))
    converted.load_state_dict(convert_state(block.state_dict(), source, form, block.cardinality))
    learns = {name: torch.full_like(p, p.requires_grad, dtype=torch.bool) for name, p in block.named_parameters()}
    for name, flags in convert_state(learns, source, form, block.cardinality).items():
        converted.get_parameter(name).requires_grad_(bool(flags.all()))
    return converted.train(block.training)


def _inner_layers(last: str | None) -> tuple[str, ...]:
    return ("conv1", "bn1") if last == "conv2" else ("conv1", "bn1", "conv2", "bn2")


def _require_channelwise(norm: str) -> None:
    if norm == "group":
        raise UserError(
            "forms (a) and (b) need BN: GroupNorm's groups reach across paths; use norm='batch' or 'frozen'"
        )
