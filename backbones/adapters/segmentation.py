"""Backbones for torchvision's segmentation networks: images → {"out": last map, "aux": the one before}.

    images (N, 3, H, W) → {"out": (N, C5, H/8, W/8), "aux": (N, C4, H/8, W/8)}      at output stride 8

DeepLabV3 (Chen et al., 2017) uses dilation for a larger map: output stride 8 or 16 in place of 32, with the rates of
its pooling pyramid doubled at 8. Parameters have the names of torchvision's own networks ("backbone.layer1.0.…").

    >>> import torch
    >>> from torchvision.models.segmentation import DeepLabV3
    >>> from torchvision.models.segmentation.deeplabv3 import DeepLabHead
    >>> from torchvision.models.segmentation.fcn import FCNHead
    >>> from backbones.adapters.segmentation import ATROUS_RATES, segmentation_backbone
    >>> small = {"depths": (1, 1, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
    >>> backbone = segmentation_backbone("resnext50_32x4d", output_stride=16, **small)
    >>> network = DeepLabV3(
    ...     backbone,
    ...     DeepLabHead(backbone.out_channels, num_classes=21, atrous_rates=ATROUS_RATES[16]),
    ...     FCNHead(backbone.aux_channels, 21),
    ... ).eval()
    >>> {name: tuple(scores.shape) for name, scores in network(torch.rand(1, 3, 64, 96)).items()}
    {'out': (1, 21, 64, 96), 'aux': (1, 21, 64, 96)}

Images are expected as torchvision's presets normalise them, by ImageNet's mean and standard deviation, for any weights;
`host_format` sets another format.
"""

from __future__ import annotations

import os
from typing import Any

try:
    from torchvision.models._utils import IntermediateLayerGetter
except ImportError as error:
    raise ImportError(f"{__name__} needs torchvision ({error}): pip install torchvision") from error

from ..common.errors import UserError
from ..factory import create_backbone
from ..input_format import InputFormat
from ..variants import find_variant
from .layers import layer_name, layers_in_order

ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Rates of the pooling pyramid by output stride (Chen et al., 2017, section 3.3)."""


class SegmentationBackbone(IntermediateLayerGetter):
    """A backbone that returns "out" and, with `auxiliary`, "aux".

    Attributes:
        out_channels, aux_channels: of the two maps; aux_channels is None without one.
        provenance: of the backbone, see `backbones.ResNeXtBackbone`.
    """

    out_channels: int
    aux_channels: int | None
    provenance: dict[str, Any]


def segmentation_backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    output_stride: int = 8,
    auxiliary: bool = True,
    host_format: InputFormat | None = None,
    norm: str = "batch",
    freeze: str | None = None,
    **structure: Any,
) -> SegmentationBackbone:
    """A dilated backbone for DeepLabV3 or FCN.

    Args:
        name, weights, norm, freeze, structure: as in `backbones.create_backbone`.
        output_stride: of the last map: 8, 16, or 32 for no dilation.
        auxiliary: whether the map before the last is returned too, for the auxiliary classifier.
        host_format: the format of the network's images; None is ImageNet's.

    Raises:
        UserError: as in `backbones.create_backbone`, or a network of a single stage with `auxiliary`.
    """
    levels = find_variant(name, structure).levels
    if auxiliary and len(levels) < 2:
        raise UserError(f"{name}: its one stage has no map before the last; build it with auxiliary=False")
    outputs = levels[-2:] if auxiliary else levels[-1:]
    backbone = create_backbone(
        name, weights, outputs, norm=norm, freeze=freeze, output_stride=output_stride, **structure
    )
    returned = dict(zip(map(layer_name, outputs), ("aux", "out")[-len(outputs) :], strict=True))
    getter = SegmentationBackbone(layers_in_order(backbone, host_format), returned)
    getter.out_channels = backbone.channels[outputs[-1]]
    getter.aux_channels = backbone.channels[outputs[0]] if auxiliary else None
    getter.provenance = backbone.provenance
    return getter
