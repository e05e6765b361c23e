"""The feature pyramid: a backbone's maps → maps of one width at every level, each with coarse context.

    c5 ─ 1×1 ─────────────── 3×3 ─ p5 ─ max-pool, stride 2 ─ p6
              │ ×2, nearest
    c4 ─ 1×1 ─ + ─────────── 3×3 ─ p4
                   │ ×2
    c3 ─ 1×1 ───── + ─────── 3×3 ─ p3        and so on, down to the finest map that the backbone gives

It does not depend on detection: it takes any backbone with `channels` and `strides`, and is a backbone itself.

Shapes: N images, W width of the pyramid.
Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3. The coarsest level by
max-pooling is section 4.1's, footnote 2 (there by subsampling); the initialisation is Detectron's
(`detectron/modeling/FPN.py`, XavierFill), which is torchvision's, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone
from .common.errors import UserError
from .input_format import InputFormat
from .normalization import make_normalization

Norm = Literal["none", "batch", "sync_batch", "group"]


class FeaturePyramid(nn.Module):
    """A backbone with a feature pyramid on top: images → {"p2": (N, W, H/4, W/4), …}, finest first.

    Args:
        backbone: its levels are named c2, c3, … in the order of their strides; each becomes a level of the pyramid.
        width: W, channels of every map.
        norm: the normalisation after each convolution of the pyramid. "none": a bias instead, as in the paper; "batch",
            "sync_batch" and "group" are for training from scratch.
        outputs: the levels to return, such as ("p2", "p3"); None returns those of the backbone's maps. One level beyond
            the backbone's ("p6" above c5) is computed by max-pooling. Of other levels, only the intermediate maps that
            the outputs need are computed.

    Attributes:
        channels, strides: of each level that is returned.
        input_format, provenance: the backbone's.

    Raises:
        UserError: levels that cannot be named or do not exist.
    """

    def __init__(
        self, backbone: Backbone, width: int = 256, *, norm: Norm = "none", outputs: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        levels = list(backbone.channels)
        wrong = [level for level in levels if not (level.startswith("c") and level[1:].isdecimal())]
        if wrong:
            raise UserError(f"a pyramid's levels are named after c2, c3, …; the backbone calls one {wrong[0]!r}")
        names = [f"p{level[1:]}" for level in levels]
        coarsest = f"p{int(levels[-1][1:]) + 1}"
        wanted = names if outputs is None else list(outputs)
        if not wanted or not set(wanted) <= {*names, coarsest}:
            raise UserError(f"outputs are {wanted}; name at least one of {', '.join((*names, coarsest))}, and no other")
        self.outputs = tuple(name for name in (*names, coarsest) if name in wanted)
        self.backbone = backbone
        self.width = width
        self.lateral = nn.ModuleDict(
            {
                name: _convolution(backbone.channels[level], width, 1, norm)
                for name, level in zip(names, levels, strict=True)
            }
        )
        computed = [name for name in names if name in self.outputs or (name == names[-1] and coarsest in self.outputs)]
        self.smooth = nn.ModuleDict({name: _convolution(width, width, 3, norm) for name in computed})
        self.coarsest = coarsest if coarsest in self.outputs else None
        self.channels = dict.fromkeys(self.outputs, width)
        strides = dict(zip(names, backbone.strides.values(), strict=True))
        strides[coarsest] = 2 * strides[names[-1]]
        self.strides = {name: strides[name] for name in self.outputs}

    @property
    def input_format(self) -> InputFormat:
        """The format of `forward`'s input."""
        return self.backbone.input_format

    @input_format.setter
    def input_format(self, value: InputFormat) -> None:
        self.backbone.input_format = value

    @property
    def provenance(self) -> dict[str, Any]:
        """The backbone and the source of its weights, as plain values."""
        return self.backbone.provenance

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W), normalised by `input_format` → {level: (N, W, ceil(H / stride), …)}, finest first."""
        merged: Tensor | None = None
        maps: dict[str, Tensor] = {}
        sources = reversed(list(zip(self.lateral, self.backbone(images).values(), strict=True)))
        for name, features in sources:
            lateral = self.lateral[name](features)
            merged = (
                lateral if merged is None else lateral + F.interpolate(merged, size=lateral.shape[-2:], mode="nearest")
            )
            if name in self.smooth:
                maps[name] = self.smooth[name](merged)
        if self.coarsest is not None:
            maps[self.coarsest] = F.max_pool2d(maps[list(self.lateral)[-1]], kernel_size=1, stride=2)
        return {name: maps[name] for name in self.outputs}


def _convolution(in_channels: int, out_channels: int, size: int, norm: Norm) -> nn.Module:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=norm == "none")
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
        return convolution
    return nn.Sequential(convolution, make_normalization(norm, out_channels))
