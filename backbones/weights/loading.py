"""Loads state dicts into networks strictly: missing, unknown and misshapen tensors are errors that name them.

Names are torchvision's: conv1, bn1, layer1.0.conv1 …, fc. The readers of other formats (`formats/`) translate first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..input_format import IMAGENET, InputFormat
from ..resnext import ResNeXt, Trunk
from .formats.fused_norm import absorb_convolution_bias, norm_of_bias

logger = logging.getLogger(__name__)

_LISTED = 30  # keys that an error lists; the rest are counted
_SHOWN = 200  # characters of each
_RGB = 3
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTS = (*_NUMBERS, torch.int64, torch.int32)


def load_backbone_state(
    network: Trunk, state: Mapping[str, Tensor], *, source: str, input_format: InputFormat = IMAGENET
) -> list[str]:
    """Copies `state` into `network`, all of it or nothing.

    Keys of stages that `network` does not build, and the classifier where it has none, are left out: a backbone takes
    them from a whole network's state. A classifier for another number of classes is dropped with a warning, and the
    network keeps its initial one. Where the network has other input channels, the stem is adapted (`adapt_stem`). A
    convolution's bias goes into the BN that follows it. BatchNorm2d's counters may be absent.

    Every tensor's type and shape is compared with the network's before any computation: a file of a few bytes may
    contain a tensor of any size.

    Args:
        network: the result of `create_backbone` or `create_classifier`.
        state: tensors by torchvision's names.
        source: their source, for messages.
        input_format: of `state`; its channel order decides how the stem is adapted.

    Returns:
        The keys of a dropped classifier; empty if it was used or is not needed.

    Raises:
        UserError: keys that are missing, unknown or misshapen, or tensors that no network can have; all are listed.
    """
    own = network.state_dict()
    wanted = {name: tensor for name, tensor in state.items() if not _is_unbuilt(name, network)}
    shapes = {name: tensor.shape for name, tensor in own.items()}
    shapes |= {name: own[mean].shape for name in wanted if (mean := norm_of_bias(name)) in own}
    if odd := [name for name, tensor in wanted.items() if name in shapes and not _is_ordinary(name, tensor)]:
        listing = _listing("sparse, quantized, complex, of whole numbers, booleans or 8 bits, or without numbers", odd)
        raise UserError(f"{source}: {listing}")
    dropped = _drop_other_classifier(network, own, wanted, source)

    if (stem := wanted.get("conv1.weight")) is not None and stem.dim() == 4 and stem.shape[1] == _RGB:
        shapes["conv1.weight"] = torch.Size((shapes["conv1.weight"][0], _RGB, *shapes["conv1.weight"][2:]))
    counters = {name for name in {*own, *wanted} if name.endswith(".num_batches_tracked")}
    missing = [name for name in own if name not in wanted and name not in counters and name not in dropped]
    extra = [name for name in wanted if name not in shapes and name not in counters]
    misshapen = [
        f"{name}: {tuple(wanted[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in wanted and wanted[name].shape != shape
    ]
    if missing or extra or misshapen:
        lines = [f"the weights of {source} do not fit the network {network.provenance.get('name', '')}".rstrip() + ":"]
        lines += [_listing("missing", missing), _listing("unknown", extra), _listing("of another shape", misshapen)]
        if network.norm == "group" and any(name.endswith("running_mean") for name in extra):
            lines.append("the weights were trained with BN; build the network with norm='batch' or norm='frozen'")
        else:
            lines.append(
                "choose the network the weights belong to, with the same depths, cardinality, base width and norm"
            )
        raise UserError("\n  ".join(line for line in lines if line))

    absorb_convolution_bias(wanted)
    wanted["conv1.weight"] = adapt_stem(
        _as_rgb(wanted["conv1.weight"], network, input_format), network.variant.in_channels
    )
    if unsound := [name for name in own if name in wanted and not _is_sound(name, wanted[name])]:
        listing = _listing("NaN, infinite, or variances below 0", unsound)
        raise UserError(f"the weights of {source} are damaged, or of a training that diverged: {listing}")
    # strict=False only for the classifier and the counters, which were checked above
    network.load_state_dict(wanted, strict=False)
    return dropped


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Weights of the first convolution (O, 3, k, k) → (O, in_channels, k, k) for other input channels.

    The RGB filters are repeated over the channels and scaled by 3 / in_channels, which keeps the size of the response.
    With one channel, or a multiple of three, equal channels give exactly the response that a grey image gave.
    """
    given = weight.shape[1]
    if given == in_channels or given != 3:
        return weight
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-in_channels // given)
    return weight.repeat(1, repeats, 1, 1)[:, :in_channels] * (given / in_channels)


def _as_rgb(weight: Tensor, network: Trunk, input_format: InputFormat) -> Tensor:
    """The stem's weights in RGB order for any order of training, if they will be adapted to other channels."""
    adapted = network.variant.in_channels != len(input_format.mean)
    return weight.flip(1) if adapted and input_format.channel_order == "bgr" else weight


def _is_unbuilt(name: str, network: Trunk) -> bool:
    if name.startswith("fc."):
        return not isinstance(network, ResNeXt)
    stage = re.match(r"layer([1-4])\.", name)
    return stage is not None and len(network.levels) < int(stage[1]) <= len(network.variant.levels)


def _is_ordinary(name: str, tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return False
    if name.endswith(".num_batches_tracked"):
        return tensor.dtype in _COUNTS
    return tensor.dtype in _NUMBERS


def _is_sound(name: str, tensor: Tensor) -> bool:
    values = tensor.float()  # the network's type
    return bool(torch.isfinite(values).all()) and not (name.endswith("running_var") and bool((values < 0).any()))


def _drop_other_classifier(
    network: nn.Module, own: Mapping[str, Tensor], wanted: dict[str, Tensor], source: str
) -> list[str]:
    """Removes a classifier whose number of classes is not the network's from `wanted`."""
    if not isinstance(network, ResNeXt):
        return []
    weight, bias = wanted.get("fc.weight"), wanted.get("fc.bias")
    if weight is None and bias is None:
        logger.warning("%s has no classifier: fc keeps its initial values for %d classes", source, network.num_classes)
    elif weight is not None and weight.dim() == 2 and weight.shape[0] != network.num_classes:
        logger.warning(
            "%s classifies into %d classes, this network into %d: its classifier is dropped, fc is initialised anew",
            source,
            weight.shape[0],
            network.num_classes,
        )
    else:
        return []
    wanted.pop("fc.weight", None)
    wanted.pop("fc.bias", None)
    return ["fc.weight", "fc.bias"]


def _listing(what: str, keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = f" … and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{what} ({len(keys)}): {', '.join(key[:_SHOWN] for key in keys[:_LISTED])}{more}"
