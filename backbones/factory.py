"""Names and numbers → networks, with or without pretrained weights.

    create_backbone("resnext50_32x4d", "torchvision/IMAGENET1K_V1", ("c3", "c4", "c5"), norm="frozen", freeze="c2")
    create_classifier("resnext50", cardinality=16, base_width=8, num_classes=5000)
    trunk, conv5 = create_c4("resnext101_32x4d", norm="frozen")

Networks have random weights unless `weights` is given: a name in the table of `weights/sources.py`, a URL, or a file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from .common.errors import UserError
from .resnext import ResNeXt, ResNeXtBackbone, Stage, Trunk
from .variants import Variant, canonical_name, find_variant
from .weights.loading import load_backbone_state
from .weights.sources import find_source


def create_backbone(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    outputs: Sequence[str] = ("c2", "c3", "c4", "c5"),
    *,
    norm: str = "batch",
    freeze: str | None = None,
    **structure: Any,
) -> ResNeXtBackbone:
    """Builds a network that returns feature maps by level.

    Args:
        name: a row of `VARIANTS`, or a name by its pattern; see `find_variant`.
        weights: a source of pretrained weights; None initialises at random.
        outputs: the levels to return. Stages beyond the last are not built.
        norm: "batch", "sync_batch" (BN over the batches of all ranks), "frozen" (BN as constants) or "group"
            (GroupNorm, from scratch only).
        freeze: the last frozen part: "stem", "c2", … BN in frozen parts is constant, too. None freezes nothing.
        structure: numbers in place of the row's own: depths, cardinality, base_width, planes, stem_width, stem,
            in_channels, output_stride, residual.

    Raises:
        UserError: an unknown name, number, level or source, or weights that do not fit.
    """
    variant = find_variant(name, structure)
    backbone = ResNeXtBackbone(variant, outputs, norm=norm)
    _finish(backbone, name, weights)
    if freeze is not None:
        backbone.freeze(freeze)
    return backbone


def create_classifier(
    name: str,
    num_classes: int = 1000,
    weights: str | os.PathLike[str] | None = None,
    *,
    norm: str = "batch",
    **structure: Any,
) -> ResNeXt:
    """Builds a network that returns logits (N, num_classes). Arguments as in `create_backbone`.

    Weights for another number of classes load without their classifier, and a warning says so.
    """
    classifier = ResNeXt(find_variant(name, structure), num_classes, norm=norm)
    _finish(classifier, name, weights)
    return classifier


def create_c4(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    norm: str = "batch",
    freeze: str | None = None,
    **structure: Any,
) -> tuple[ResNeXtBackbone, Stage]:
    """Builds the two parts of a C4 detector: a trunk that ends at c4, and conv5, which runs on each region.

    Returns:
        The backbone, giving {"c4": (N, C4, H/16, W/16)}, and the stage (R, C4, h, w) → (R, C5, ceil(h/2), ceil(w/2))
        with `out_channels` and `stride`. Arguments as in `create_backbone`; `freeze="c5"` freezes both whole.
    """
    if "c5" not in (levels := find_variant(name, structure).levels):
        raise UserError(f"{name} has the stages {', '.join(levels)}; a C4 detector needs c2 to c5")
    whole = create_backbone(name, weights, ("c5",), norm=norm, freeze=freeze, **structure)
    conv5 = whole.split_off_last_stage()
    return whole, conv5


def _finish(network: Trunk, name: str, weights: str | os.PathLike[str] | None) -> None:
    """Sets the network's provenance and loads its weights, if any."""
    variant: Variant = network.variant
    network.provenance = {
        "name": canonical_name(name, variant),
        "structure": {**dataclasses.asdict(variant), "depths": list(variant.depths)},
        "norm": network.norm,
        "weights": None,
    }
    if weights is None:
        return
    weights = os.fspath(weights)
    row = find_source(weights, network.provenance["name"])
    if row is not None:  # before the download
        _check_norm(weights, network.norm, row.fused_norm)
        if network.norm == "group":
            raise UserError(f"{weights}: it was trained with BN; use norm='batch' or norm='frozen'")
    from .weights.pretrained import resolve_weights  # imported here: networks without weights do not need the readers

    pretrained = resolve_weights(weights, network.provenance["name"])
    _check_norm(weights, network.norm, pretrained.frozen_norm_only)
    load_backbone_state(network, pretrained.state_dict, source=weights, input_format=pretrained.input_format)
    network.input_format = pretrained.input_format.for_channels(variant.in_channels)
    network.provenance["weights"] = pretrained.provenance


def _check_norm(weights: str, norm: str, fused: bool) -> None:
    if fused and norm != "frozen":
        raise UserError(
            f"{weights}: its BN was fused into scale and bias, so there are no statistics to train with; "
            "use norm='frozen'"
        )
