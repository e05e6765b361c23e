"""ResNeXt and ResNet networks for any detector: images → feature maps, with weights from every public source.

from backbones import create_backbone
backbone = create_backbone("resnext50_32x4d", weights="torchvision/IMAGENET1K_V2", outputs=("c3", "c4", "c5"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .common.errors import UserError

if TYPE_CHECKING:
    from .backbone import Backbone
    from .factory import create_backbone, create_c4, create_classifier
    from .grouped import fastest_grouped_convolutions
    from .input_format import IMAGENET, InputFormat
    from .normalization import fold_batch_norm
    from .pointwise import onednn_pointwise_convolutions
    from .pyramid import FeaturePyramid
    from .resnext import ResNeXt, ResNeXtBackbone
    from .variants import VARIANTS, Variant

__all__ = [
    "IMAGENET",
    "VARIANTS",
    "Backbone",
    "FeaturePyramid",
    "InputFormat",
    "ResNeXt",
    "ResNeXtBackbone",
    "UserError",
    "Variant",
    "create_backbone",
    "create_c4",
    "create_classifier",
    "fastest_grouped_convolutions",
    "fold_batch_norm",
    "onednn_pointwise_convolutions",
]

_MODULES = {
    "IMAGENET": "input_format",
    "VARIANTS": "variants",
    "Backbone": "backbone",
    "FeaturePyramid": "pyramid",
    "InputFormat": "input_format",
    "ResNeXt": "resnext",
    "ResNeXtBackbone": "resnext",
    "Variant": "variants",
    "create_backbone": "factory",
    "create_c4": "factory",
    "create_classifier": "factory",
    "fastest_grouped_convolutions": "grouped",
    "fold_batch_norm": "normalization",
    "onednn_pointwise_convolutions": "pointwise",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: the import of an error class or of the download does not import torch.
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
