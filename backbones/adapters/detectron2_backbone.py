"""Backbones for detectron2: images → {"res2": map, …, "res5": map}, with channels and strides declared.

    images (N, 3, H, W) → {"res2": (N, 256, H/4, W/4), …, "res5": (N, 2048, H/32, W/32)}

`ResNeXtBackbone` can be used wherever detectron2 takes a `Backbone`: below its FPN, or alone. The import of this module
adds the builder to detectron2's registry of backbones, so that configurations can name it:

    >>> import torch
    >>> from detectron2.config import get_cfg
    >>> from detectron2.modeling import build_backbone
    >>> from backbones.adapters.detectron2_backbone import add_resnext_config
    >>> cfg = get_cfg()
    >>> add_resnext_config(cfg)
    >>> cfg.MODEL.BACKBONE.NAME = "build_resnext_backbone"
    >>> cfg.MODEL.BACKBONE.FREEZE_AT = 2
    >>> cfg.MODEL.RESNEXT.NAME = "resnext14_8x16d_small"
    >>> backbone = build_backbone(cfg)
    >>> {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()}
    {'res2': (64, 4), 'res3': (128, 8), 'res4': (256, 16), 'res5': (512, 32)}
    >>> {name: tuple(maps.shape) for name, maps in backbone(torch.rand(1, 3, 64, 96)).items()}
    {'res2': (1, 64, 16, 24), 'res3': (1, 128, 8, 12), 'res4': (1, 256, 4, 6), 'res5': (1, 512, 2, 3)}

With FPN on top, give `FPN(build_resnext_backbone(cfg, input_shape), …)` from a builder of your own, as detectron2's
build_resnet_fpn_backbone does. INPUT.FORMAT, PIXEL_MEAN and PIXEL_STD need no change for any weights: the builder reads
them, and the backbone converts the pixels into the format of the weights.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

try:
    from detectron2.config import CfgNode
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY, Backbone
except ImportError as error:
    raise ImportError(
        f"{__name__} needs detectron2 ({error}): pip install 'git+https://github.com/facebookresearch/detectron2.git'"
    ) from error

from ..common.errors import UserError
from ..factory import create_backbone
from ..input_format import InputFormat
from .host_input import HostInput

DEFAULT_HOST_FORMAT = InputFormat("bgr", 255.0, (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
"""The input format of detectron2's default configuration: INPUT.FORMAT, MODEL.PIXEL_MEAN, MODEL.PIXEL_STD."""


class ResNeXtBackbone(Backbone):
    """A backbone with detectron2's interface.

    Args:
        name, weights, norm, structure: as in `backbones.create_backbone`.
        out_features: of "res2" to "res5". Stages beyond the last are not built.
        freeze_at: see `freeze`.
        host_format: the format of the images after the model's preprocessing.

    Attributes:
        network: the backbone itself.

    Raises:
        UserError: as in `backbones.create_backbone`.
    """

    def __init__(
        self,
        name: str,
        weights: str | os.PathLike[str] | None = None,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        *,
        freeze_at: int = 0,
        norm: str = "batch",
        host_format: InputFormat = DEFAULT_HOST_FORMAT,
        **structure: Any,
    ) -> None:
        super().__init__()
        levels = [_level(feature) for feature in out_features]
        self.network = create_backbone(name, weights, levels, norm=norm, **structure)
        self.input = HostInput(host_format, self.network.input_format)
        self.freeze(freeze_at)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Preprocessed images (N, in_channels, H, W) → maps by name, finest first."""
        return {_feature(level): maps for level, maps in self.network(self.input(images)).items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            _feature(level): ShapeSpec(channels=self.network.channels[level], stride=self.network.strides[level])
            for level in self.network.outputs
        }

    @property
    def size_divisibility(self) -> int:
        """0: images of any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """None."""
        return {}

    def freeze(self, freeze_at: int = 0) -> ResNeXtBackbone:
        """Freezes the first parts, including BN: 1 the stem, 2 the stem and res2, …; 0 nothing. A number beyond the
        last part freezes all. Returns this backbone."""
        if freeze_at > 0:
            parts = ("stem", *self.network.levels)
            self.network.freeze(parts[min(freeze_at, len(parts)) - 1])
        return self


def add_resnext_config(cfg: CfgNode) -> None:
    """Adds MODEL.RESNEXT, which `build_resnext_backbone` reads, to a configuration: NAME, WEIGHTS ("" for none), NORM,
    OUT_FEATURES and OUTPUT_STRIDE (0 for the network's own)."""
    cfg.MODEL.RESNEXT = CfgNode(
        {
            "NAME": "resnext101_32x4d",
            "WEIGHTS": "",
            "NORM": "frozen",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            "OUTPUT_STRIDE": 0,
        }
    )


@BACKBONE_REGISTRY.register()
def build_resnext_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNeXtBackbone:
    """A backbone from MODEL.RESNEXT, MODEL.BACKBONE.FREEZE_AT and the configuration's input format.

    Raises:
        UserError: an INPUT.FORMAT other than BGR, RGB and L, or as in `backbones.create_backbone`.
    """
    settings = cfg.MODEL.RESNEXT
    channel_order = {"BGR": "bgr", "RGB": "rgb", "L": "rgb"}.get(cfg.INPUT.FORMAT)
    if channel_order is None:
        raise UserError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; this backbone takes BGR, RGB or L")
    return ResNeXtBackbone(
        settings.NAME,
        settings.WEIGHTS or None,
        settings.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=settings.NORM,
        host_format=InputFormat(channel_order, 255.0, tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)),
        in_channels=input_shape.channels,
        output_stride=settings.OUTPUT_STRIDE or None,
    )


def _level(feature: str) -> str:
    if not feature.startswith("res"):
        raise UserError(f"out_features has {feature!r}; this backbone gives res2, res3, res4 and res5")
    return "c" + feature.removeprefix("res")


def _feature(level: str) -> str:
    return "res" + level.removeprefix("c")
