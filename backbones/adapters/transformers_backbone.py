"""Backbones for the DETR family of transformers 5: pixel values → a BackboneOutput with feature maps.

    pixel_values (N, 3, H, W) → feature_maps ((N, 512, H/8, W/8), (N, 1024, H/16, W/16), (N, 2048, H/32, W/32))

A `ResNeXtBackboneConfig` can be a model configuration's `backbone_config`. Stages have the names of transformers' own
ResNet: "stem" (here the stem's map before its pooling), "stage1" (c2) to "stage4" (c5), so out_indices=[2, 3, 4] are
c3, c4 and c5. The import of this module registers the two classes with AutoConfig and AutoBackbone, which is necessary
to load a saved detector.

DETR takes the last map, Deformable DETR and RT-DETR take three:

    >>> import torch
    >>> from transformers import DetrConfig, DetrForObjectDetection
    >>> from backbones.adapters.transformers_backbone import ResNeXtBackboneConfig
    >>> small = {"depths": (1, 1, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}
    >>> backbone = ResNeXtBackboneConfig("resnext50_32x4d", freeze="c2", structure=small, out_features=["stage4"])
    >>> config = DetrConfig(
    ...     backbone_config=backbone, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32,
    ...     decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, num_labels=3,
    ... )
    >>> detector = DetrForObjectDetection(config).eval()
    >>> tuple(detector(torch.rand(1, 3, 64, 96)).pred_boxes.shape)
    (1, 5, 4)

Pixel values are expected normalised by ImageNet's mean and standard deviation, as by DETR's image processor, for any
weights. RT-DETR's image processor only scales them to 0–1, which `host_format` states:

    >>> from backbones.adapters.host_input import ZERO_TO_ONE
    >>> backbone = ResNeXtBackboneConfig(
    ...     "resnext50_32x4d", structure=small, out_indices=[2, 3, 4], host_format=ZERO_TO_ONE
    ... )
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
    from transformers import initialization as init
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_outputs import BackboneOutput
except ImportError as error:
    raise ImportError(
        f"{__name__} needs transformers 5.1 or later ({error}): pip install 'transformers>=5.1'"
    ) from error

from ..factory import create_backbone
from ..input_format import InputFormat
from ..variants import canonical_name, find_variant
from ..weights.pretrained import resolve_weights
from ..weights.sources import find_source
from .layers import STEM, apply_layers, layer_name, layers_in_order

# These functions of transformers do not change parameters that a checkpoint has filled
_NORMALIZATION_START = {
    "weight": init.ones_,
    "bias": init.zeros_,
    "running_mean": init.zeros_,
    "running_var": init.ones_,
    "num_batches_tracked": init.zeros_,
}


class ResNeXtBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """The settings of a backbone, as transformers saves and restores them.

    Args:
        network: the name, as in `backbones.create_backbone`.
        weights: a source of pretrained weights, read when a model is built from this configuration, but not by
            from_pretrained, which loads the model's own. None: random initialisation.
        norm, freeze: as in `backbones.create_backbone`. Frozen parts stay frozen: the host's unfreeze_backbone() does
            not change them.
        structure: numbers in place of the network's own.
        out_features, out_indices: the maps wanted, by name or by position in `stage_names`; None is the last.
        host_format: the image processor's output format, as `InputFormat` or its plain values; None is ImageNet's.
        input_format: the format that the weights expect, as plain values. It is determined with the weights and saved,
            for when they are not available.

    Raises:
        UserError: an unknown network, number or source of weights.
        ValueError: stages that the network does not have.
    """

    # It must not contain "resnet": DETR would then freeze layers by the names of transformers' own ResNet
    model_type = "resnext_backbone"

    def __init__(
        self,
        network: str = "resnext50_32x4d",
        weights: str | os.PathLike[str] | None = None,
        norm: str = "batch",
        freeze: str | None = None,
        structure: Mapping[str, Any] | None = None,
        out_features: Sequence[str] | None = None,
        out_indices: Sequence[int] | None = None,
        host_format: InputFormat | Mapping[str, Any] | None = None,
        input_format: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        self.network = network
        self.weights = weights = None if weights is None else os.fspath(weights)  # plain, for JSON
        self.norm = norm
        self.freeze = freeze
        self.structure = dict(structure or {})
        variant = find_variant(network, self.structure)
        if weights is not None and input_format is None:
            input_format = _expected_input(weights, canonical_name(network, variant)).to_dict()
        self.input_format = input_format
        self.host_format = host_format.to_dict() if isinstance(host_format, InputFormat) else host_format
        others.pop("stage_names", None)  # of a saved configuration; they follow from the network
        self.stage_names = ["stem", *(f"stage{index + 1}" for index in range(len(variant.levels)))]
        self.set_output_features_output_indices(
            None if out_features is None else list(out_features), None if out_indices is None else list(out_indices)
        )
        super().__init__(**others)


class ResNeXtBackbone(BackboneMixin, PreTrainedModel):
    """A backbone with transformers' interface: `channels` of each map, and a forward that returns BackboneOutput."""

    config: ResNeXtBackboneConfig
    config_class = ResNeXtBackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = "image"
    has_attentions = False

    def __init__(self, config: ResNeXtBackboneConfig) -> None:
        super().__init__(config)
        variant = find_variant(config.network, config.structure)
        self.num_features = [variant.stem_width, *variant.channels.values()]
        last = variant.levels[max(*(config.stage_names.index(stage) for stage in config.out_features), 1) - 1]
        # from_pretrained builds a model on the meta device, and then puts the checkpoint's tensors into it
        is_skeleton = torch.empty(0).device.type == "meta"
        backbone = create_backbone(
            config.network,
            None if is_skeleton else config.weights,
            (last,),
            norm=config.norm,
            freeze=config.freeze,
            **config.structure,
        )
        if config.input_format is not None:
            backbone.input_format = InputFormat.from_dict(config.input_format).for_channels(variant.in_channels)
        host_format = None if config.host_format is None else InputFormat.from_dict(config.host_format)
        for name, layer in layers_in_order(backbone, host_format).named_children():
            self.add_module(name, layer)
        self._layers = {"stem": STEM}
        for stage, level in zip(config.stage_names[1:], backbone.levels, strict=False):
            self._layers[stage] = layer_name(level)
        self._constant = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        self._is_skeleton = is_skeleton
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """Pixel values (N, in_channels, H, W) from the image processor → the maps of `out_features`, finest first; with
        output_hidden_states those of all stages that are built. It returns no attentions."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        wanted = self._layers if output_hidden_states else self.out_features
        maps = apply_layers(self, pixel_values, [self._layers[stage] for stage in wanted])
        feature_maps: Any = tuple(maps[self._layers[stage]] for stage in self.out_features)
        hidden_states: Any = tuple(maps.values()) if output_hidden_states else None
        output = BackboneOutput(feature_maps=feature_maps, hidden_states=hidden_states)
        return output if return_dict else output.to_tuple()

    def train(self, mode: bool = True) -> ResNeXtBackbone:
        """Training or evaluation mode. from_pretrained recreates every parameter as trainable and calls this at its
        end, so the frozen parts are frozen again here."""
        super().train(mode)
        for name, parameter in self.named_parameters():
            if name in self._constant:
                parameter.requires_grad_(False)
        return self

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises parameters that a checkpoint lacks, as `create_backbone` does. A backbone that was built with
        weights keeps them, although the detector around it finally initialises all its modules."""
        if not self._is_skeleton:
            return
        if isinstance(module, nn.Conv2d):
            init.normal_(module.weight, 0.0, math.sqrt(2.0 / (math.prod(module.kernel_size) * module.out_channels)))
            return
        for name, fill in _NORMALIZATION_START.items():  # the host's own frozen BN included
            if getattr(module, name, None) is not None:
                fill(getattr(module, name))


def _expected_input(weights: str, network: str) -> InputFormat:
    """The input format of a source's weights; without a download if the table states it."""
    row = find_source(weights, network)
    return row.input_format if row is not None else resolve_weights(weights, network).input_format


AutoConfig.register(ResNeXtBackboneConfig.model_type, ResNeXtBackboneConfig, exist_ok=True)
AutoBackbone.register(ResNeXtBackboneConfig, ResNeXtBackbone, exist_ok=True)
