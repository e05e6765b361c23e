"""Backbones for MMDetection 3: images → a tuple of maps, chosen by `out_indices`.

    images (N, 3, H, W) → ((N, 256, H/4, W/4), (N, 512, H/8, W/8), (N, 1024, H/16, W/16), (N, 2048, H/32, W/32))

The interface is that of `mmdet.models.ResNet`: out_indices, frozen_stages, norm_eval, init_cfg, and parameters of the
same names ("backbone.layer1.0.conv1.weight" in a detector's checkpoint). The import of this module, here
by `custom_imports`, adds `ResNeXtBackbone` to MMDetection's registry. In a configuration:

    custom_imports = dict(imports=["backbones.adapters.mmdetection_backbone"], allow_failed_imports=False)
    model = dict(
        backbone=dict(type="ResNeXtBackbone", name="resnext101_32x4d", weights="default", frozen_stages=1),
        neck=dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    )

and the same in Python, with a small network:

    >>> import torch
    >>> from mmdet.registry import MODELS
    >>> import backbones.adapters.mmdetection_backbone
    >>> small = {"depths": (1, 1, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
    >>> settings = {"type": "ResNeXtBackbone", "name": "resnext50_32x4d", "out_indices": (1, 2, 3), **small}
    >>> backbone = MODELS.build({**settings, "frozen_stages": 1})
    >>> [tuple(maps.shape) for maps in backbone(torch.rand(1, 3, 64, 96))]
    [(1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 2, 3)]

The data preprocessor of MMDetection's configurations (mean 123.675, 116.28, 103.53; std 58.395, 57.12, 57.375;
bgr_to_rgb) needs no change for any weights; for another one, set `host_format`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

try:
    from mmdet.registry import MODELS
    from mmengine.model import BaseModule
except ImportError as error:
    raise ImportError(
        f"{__name__} needs MMDetection 3 ({error}): pip install -U openmim && mim install mmengine mmcv mmdet"
    ) from error

from ..common.errors import UserError
from ..factory import create_backbone
from ..input_format import InputFormat
from ..variants import find_variant
from .layers import apply_layers, layer_name, layers_in_order


@MODELS.register_module()
class ResNeXtBackbone(BaseModule):
    """A backbone with MMDetection's interface.

    Args:
        name, weights, structure: as in `backbones.create_backbone`.
        out_indices: the stages whose maps are returned: 0 is c2, 3 is c5. Stages beyond the last are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, 1 the stem and the first stage, and so on. Frozen BN computes
            with its statistics in training mode too.
        norm: "batch", "frozen" or "group".
        norm_eval: whether every BN uses its running statistics in training mode, as is usual in detection. Its weight
            and bias are still trained.
        host_format: the data preprocessor's output format, as plain values or `InputFormat`; None is ImageNet's in RGB.
        init_cfg: MMEngine's initialisation. {"type": "Pretrained", "checkpoint": …} loads files with torchvision's
            names; it cannot be combined with `weights`.

    Attributes:
        channels: of each map that is returned.
        input_format: the format that the weights expect, in which the images reach conv1.
        provenance: see `backbones.ResNeXtBackbone`.

    Raises:
        UserError: an index or number of stages that the network does not have, weights together with init_cfg, or as in
            `backbones.create_backbone`.
    """

    def __init__(
        self,
        name: str,
        weights: str | os.PathLike[str] | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm: str = "batch",
        norm_eval: bool = True,
        host_format: InputFormat | Mapping[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
        **structure: Any,
    ) -> None:
        if weights is not None and init_cfg:
            raise UserError(f"{name}: both weights={weights!r} and init_cfg initialise the network; leave one out")
        super().__init__(init_cfg)
        levels = find_variant(name, structure).levels
        if not out_indices or not all(0 <= index < len(levels) for index in out_indices):
            raise UserError(f"{name}: out_indices is {out_indices!r}; name at least one of 0 to {len(levels) - 1}")
        outputs = [levels[index] for index in sorted(out_indices)]
        parts = (None, "stem", *levels[: levels.index(outputs[-1]) + 1])
        if not -1 <= frozen_stages < len(parts) - 1:
            raise UserError(
                f"{name}: frozen_stages is {frozen_stages}; with these out_indices it can be -1 to {len(parts) - 2}"
            )
        backbone = create_backbone(name, weights, outputs, norm=norm, freeze=parts[frozen_stages + 1], **structure)
        if isinstance(host_format, Mapping):
            host_format = InputFormat.from_dict(host_format)
        # The layers are children of this module, so that parameters have the names of MMDetection's own ResNets
        for layer, module in layers_in_order(backbone, host_format).named_children():
            self.add_module(layer, module)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.channels = tuple(backbone.channels.values())
        self.input_format = backbone.input_format
        self.provenance = backbone.provenance
        self._returned = [layer_name(level) for level in backbone.outputs]
        self.train()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) from the data preprocessor → the maps of `out_indices`, finest first."""
        return tuple(apply_layers(self, images, self._returned).values())

    def train(self, mode: bool = True) -> ResNeXtBackbone:
        """Sets training mode; with `norm_eval`, BN stays in evaluation mode."""
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
