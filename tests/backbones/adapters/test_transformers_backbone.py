"""Detectors of transformers on our backbones: they train, keep the backbone's weights, and survive saving."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import IMAGENET, UserError, create_backbone
from backbones.adapters.host_input import ZERO_TO_ONE

transformers = pytest.importorskip(
    "transformers", minversion="5.1", reason="TRANSFORMERS MISSING: nothing was tried in it; pip install transformers"
)
from transformers import (  # noqa: E402
    AutoBackbone,
    AutoConfig,
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DetrConfig,
    DetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
)

from backbones.adapters.transformers_backbone import ResNeXtBackbone, ResNeXtBackboneConfig  # noqa: E402

NAME = "resnext50_32x4d"
SMALL_DETR = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 5,
    "num_labels": 3,
}


def _detr(backbone: ResNeXtBackboneConfig) -> nn.Module:
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone, **SMALL_DETR))


def _conditional_detr(backbone: ResNeXtBackboneConfig) -> nn.Module:
    return ConditionalDetrForObjectDetection(ConditionalDetrConfig(backbone_config=backbone, **SMALL_DETR))


def _deformable_detr(backbone: ResNeXtBackboneConfig) -> nn.Module:
    config = DeformableDetrConfig(backbone_config=backbone, num_feature_levels=4, **SMALL_DETR)
    return DeformableDetrForObjectDetection(config)


def _rt_detr(backbone: ResNeXtBackboneConfig) -> nn.Module:
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[128, 256, 512],
        encoder_hidden_dim=32,
        decoder_in_channels=[32, 32, 32],
        num_denoising=0,
        **SMALL_DETR,
    )
    return RTDetrForObjectDetection(config)


DETECTORS = {
    "detr": (_detr, [4]),
    "conditional_detr": (_conditional_detr, [4]),
    "deformable_detr": (_deformable_detr, [2, 3, 4]),
    "rt_detr": (_rt_detr, [2, 3, 4]),
}


def _labels() -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.6, 0.2, 0.3]])
    return [
        {"class_labels": torch.tensor([0, 2]), "boxes": boxes},
        {"class_labels": torch.tensor([1]), "boxes": boxes[:1]},
    ]


def _backbone_of(detector: nn.Module) -> ResNeXtBackbone:
    (found,) = (module for module in detector.modules() if isinstance(module, ResNeXtBackbone))
    return found


def _maps(backbone: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return backbone(images).feature_maps


@pytest.fixture(params=DETECTORS)
def build(request: pytest.FixtureRequest, structure: dict[str, Any]) -> Callable[..., nn.Module]:
    """Builds the detector with the maps it needs."""
    make, out_indices = DETECTORS[request.param]
    return lambda **options: make(ResNeXtBackboneConfig(NAME, structure=structure, out_indices=out_indices, **options))


def test_detectors_train(build: Callable[..., nn.Module], pixels: Tensor, assert_trains: Any) -> None:
    torch.manual_seed(0)
    detector = build(freeze="c2").train()
    output = detector(IMAGENET.normalize(pixels), labels=_labels())
    backbone = _backbone_of(detector)
    frozen = {name.split(".")[0] for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "layer1"}, "a host may freeze what it takes for its own ResNet"
    assert_trains(detector, output.loss)


def test_pixels_and_weights_arrive_unharmed(
    build: Callable[..., nn.Module], foreign_weights: str, pixels: Tensor, reference: dict[str, Tensor]
) -> None:
    """A detector initialises all its modules at the end of its construction; the backbone keeps its weights."""
    backbone = _backbone_of(build(weights=foreign_weights).eval())
    levels = ["c5"] if len(backbone.out_features) == 1 else ["c3", "c4", "c5"]
    assert backbone.channels == [{"c3": 128, "c4": 256, "c5": 512}[level] for level in levels]
    for got, level in zip(_maps(backbone, IMAGENET.normalize(pixels)), levels, strict=True):
        torch.testing.assert_close(got, reference[level], rtol=1e-4, atol=1e-4)


def test_saved_detectors_load(
    build: Callable[..., nn.Module], foreign_weights: str, pixels: Tensor, tmp_path: Path
) -> None:
    """Without the file their backbones began with, with the same frozen parts, and with the same input convention."""
    source = shutil.copy(foreign_weights, tmp_path / "source.pt")
    detector = build(weights=str(source), freeze="c2").eval()
    Path(source).unlink()
    detector.save_pretrained(tmp_path / "saved")
    loaded = type(detector).from_pretrained(tmp_path / "saved")
    images = IMAGENET.normalize(pixels)
    with torch.no_grad():
        got, expected = loaded(images), detector(images)
    torch.testing.assert_close(got.logits, expected.logits)
    torch.testing.assert_close(got.pred_boxes, expected.pred_boxes)
    trains, trained = (
        {name for name, parameter in _backbone_of(network).named_parameters() if parameter.requires_grad}
        for network in (loaded, detector)
    )
    assert trains == trained
    assert not any(name.startswith(("conv1", "layer1")) for name in trains)


def test_what_a_checkpoint_lacks_is_initialised(structure: dict[str, Any], tmp_path: Path) -> None:
    """A detector's checkpoint for another backbone: ours starts as `create_backbone` would make it."""
    for norm in ("batch", "frozen", "group"):
        config = DetrConfig(backbone_config=ResNeXtBackboneConfig(NAME, norm=norm, structure=structure), **SMALL_DETR)
        detector = DetrForObjectDetection(config)
        state = {name: tensor for name, tensor in detector.state_dict().items() if ".backbone." not in name}
        detector.save_pretrained(tmp_path / norm, state_dict=state)
        loaded = DetrForObjectDetection.from_pretrained(tmp_path / norm)
        backbone = _backbone_of(loaded)
        for name, tensor in backbone.state_dict().items():
            if tensor.dim() == 4:
                expected = (2.0 / (tensor.shape[0] * tensor.shape[2] * tensor.shape[3])) ** 0.5
                assert 0.7 < tensor.std().item() / expected < 1.4, name
            else:
                value = 1.0 if name.endswith(("running_var", "weight")) else 0.0
                assert torch.equal(tensor, torch.full_like(tensor, value)), name


def test_backbone_alone(structure: dict[str, Any], pixels: Tensor, tmp_path: Path) -> None:
    config = ResNeXtBackboneConfig(NAME, structure=structure, out_features=["stage1", "stage3"], freeze="stem")
    backbone = AutoBackbone.from_config(config).eval()
    assert isinstance(backbone, ResNeXtBackbone)
    assert backbone.out_indices == [1, 3]
    assert backbone.channels == [64, 256]
    images = IMAGENET.normalize(pixels)
    alone = create_backbone(NAME, outputs=("c2", "c4"), **structure).eval()
    alone.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        output, expected = backbone(images, output_hidden_states=True), alone(images)
    torch.testing.assert_close(output.feature_maps, tuple(expected.values()))
    assert [tuple(state.shape[1:]) for state in output.hidden_states] == [
        (16, 32, 48),
        (64, 16, 24),
        (128, 8, 12),
        (256, 4, 6),
    ]
    (maps,) = backbone(images, return_dict=False)
    assert len(maps) == 2
    backbone.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), ResNeXtBackboneConfig)
    loaded = ResNeXtBackbone.from_pretrained(tmp_path)
    torch.testing.assert_close(_maps(loaded, images), output.feature_maps)


def test_the_stem_is_a_stage_too(structure: dict[str, Any]) -> None:
    config = ResNeXtBackboneConfig(NAME, structure=structure, out_indices=[0])
    (stem,) = _maps(ResNeXtBackbone(config), torch.rand(1, 3, 64, 96))
    assert stem.shape == (1, 16, 32, 48)


def test_image_processor_that_only_scales(
    foreign_weights: str, structure: dict[str, Any], pixels: Tensor, reference: dict[str, Tensor]
) -> None:
    config = ResNeXtBackboneConfig(NAME, foreign_weights, structure=structure, host_format=ZERO_TO_ONE)
    (last,) = _maps(ResNeXtBackbone(config).eval(), pixels / 255.0)
    torch.testing.assert_close(last, reference["c5"], rtol=1e-4, atol=1e-4)


def test_configuration_is_plain_and_names_its_source(structure: dict[str, Any], foreign_weights: str) -> None:
    named = ResNeXtBackboneConfig("resnext101_64x4d", "detectron/X-101-64x4d", norm="frozen", host_format=ZERO_TO_ONE)
    assert named.input_format["channel_order"] == "bgr", "known from the table, with no download"
    restored = ResNeXtBackboneConfig.from_dict(json.loads(json.dumps(named.to_dict())))
    assert restored.to_dict() == named.to_dict()
    with pytest.raises(UserError, match="unknown network"):
        ResNeXtBackboneConfig("resnext5000")
    with pytest.raises(UserError, match="neither a file here"):
        ResNeXtBackboneConfig(NAME, "nowhere.pt")
    with pytest.raises(ValueError, match="stage9"):
        ResNeXtBackboneConfig(NAME, out_features=["stage9"])
