"""timm's convention for feature extractors: images → a list of maps, described by `feature_info`.

    images (N, 3, H, W) → [(N, 64, H/2, W/2), (N, 256, H/4, W/4), …, (N, 2048, H/32, W/32)]

The result is of the same class as that of `timm.create_model(name, features_only=True, out_indices=…, output_stride=…)`
for timm's ResNets. Index 0 is the stem's map before its pooling, 1 to 4 are c2 to c5.

    >>> import torch
    >>> from backbones.adapters.timm_features import features_only
    >>> small = {"depths": (1, 1, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
    >>> features = features_only("resnext50_32x4d", out_indices=(1, 2, 3, 4), output_stride=16, **small)
    >>> features.feature_info.channels(), features.feature_info.reduction()
    ([64, 128, 256, 512], [4, 8, 16, 16])
    >>> [tuple(maps.shape) for maps in features(torch.rand(1, 3, 64, 96))]
    [(1, 64, 16, 24), (1, 128, 8, 12), (1, 256, 4, 6), (1, 512, 4, 6)]
    >>> import timm.data
    >>> timm.data.resolve_model_data_config(features)["mean"]
    (0.485, 0.456, 0.406)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

try:
    from timm.models import FeatureListNet
except ImportError as error:
    raise ImportError(f"{__name__} needs timm ({error}): pip install timm") from error

from ..common.errors import UserError
from ..factory import create_backbone
from ..input_format import InputFormat
from ..variants import Variant, find_variant
from .host_input import default_host_format, mean_and_std
from .layers import STEM, layer_name, layers_in_order


class TimmFeatures(FeatureListNet):
    """timm's FeatureListNet over a backbone's layers.

    Attributes:
        feature_info: timm's FeatureInfo: channels (num_chs), reduction and module of each map.
        pretrained_cfg: the mean and standard deviation that `timm.data` normalises images by.
        provenance: of the backbone, see `backbones.ResNeXtBackbone`.
    """

    pretrained_cfg: dict[str, Any]
    provenance: dict[str, Any]


def features_only(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    out_indices: int | Sequence[int] = (0, 1, 2, 3, 4),
    *,
    host_format: InputFormat | None = None,
    norm: str = "batch",
    freeze: str | None = None,
    **structure: Any,
) -> TimmFeatures:
    """Builds a feature extractor with timm's interface. Stages beyond the last index are not built.

    Args:
        name, weights, norm, freeze, structure: as in `backbones.create_backbone`.
        out_indices: 0 for the stem, 1 for c2, …; negative ones count from the end; a single number n means the last n.
        host_format: the format of the images; None is ImageNet's, which is timm's default.

    Raises:
        UserError: an index the network does not have, or as in `backbones.create_backbone`.
    """
    variant = find_variant(name, structure)
    indices = _absolute(out_indices, 1 + len(variant.levels), name)
    last = variant.levels[max(*indices, 1) - 1]
    backbone = create_backbone(name, weights, (last,), norm=norm, freeze=freeze, **structure)
    layers = layers_in_order(backbone, host_format)
    layers.feature_info = _feature_info(variant)  # type: ignore[assignment]  # where timm looks for it
    features = TimmFeatures(layers, out_indices=indices)
    host = host_format or default_host_format(backbone.input_format)
    mean, std = mean_and_std(host)
    features.pretrained_cfg = {"input_size": (variant.in_channels, 224, 224), "mean": tuple(mean), "std": tuple(std)}
    features.provenance = backbone.provenance
    return features


def _absolute(out_indices: int | Sequence[int], count: int, name: str) -> tuple[int, ...]:
    indices = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices
    if not indices or not all(-count <= index < count for index in indices):
        raise UserError(f"{name}: out_indices is {out_indices!r}; name at least one of 0 (the stem) to {count - 1}")
    return tuple(sorted({index % count for index in indices}))  # maps are returned in the network's order


def _feature_info(variant: Variant) -> list[dict[str, Any]]:
    stem_reduction = 2 if variant.stem == "imagenet" else variant.stem_stride  # before the pooling
    stem = {"num_chs": variant.stem_width, "reduction": stem_reduction, "module": STEM}
    return [
        stem,
        *(
            {"num_chs": variant.channels[level], "reduction": variant.strides[level], "module": layer_name(level)}
            for level in variant.levels
        ),
    ]
