"""detectron2's contract, on detectron2 where it is installed and on a stand-in by its documentation otherwise."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import InputFormat, UserError

NAME = "resnext50_32x4d"


def _fed(pixels: Tensor, cfg: Any) -> Tensor:
    """What detectron2's GeneralizedRCNN makes of pixels by its configuration: (pixels - PIXEL_MEAN) / PIXEL_STD."""
    pixels = pixels.flip(1) if cfg.INPUT.FORMAT == "BGR" else pixels
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    return (pixels - mean) / std


def _cfg(adapter: types.ModuleType, **settings: Any) -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    adapter.add_resnext_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnext_backbone"
    for name, value in settings.items():
        setattr(cfg.MODEL.RESNEXT, name, value)
    return cfg


def test_is_a_backbone_by_contract(detectron2_backbone: types.ModuleType, structure: dict[str, Any]) -> None:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import Backbone

    backbone = detectron2_backbone.ResNeXtBackbone(NAME, out_features=("res3", "res5"), output_stride=16, **structure)
    assert isinstance(backbone, Backbone)
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}
    assert backbone.output_shape() == {
        "res3": ShapeSpec(channels=128, stride=8),
        "res5": ShapeSpec(channels=512, stride=16),
    }
    maps = backbone(torch.rand(1, 3, 61, 90))  # no multiple of any stride
    for name, shape in backbone.output_shape().items():
        assert maps[name].shape == (1, shape.channels, -(-61 // shape.stride), -(-90 // shape.stride))
    assert list(maps) == ["res3", "res5"]


@pytest.mark.parametrize(
    ("freeze_at", "frozen"), [(0, set()), (1, {"conv1"}), (2, {"conv1", "layer1"}), (3, {"conv1", "layer1", "layer2"})]
)
def test_freezing(
    detectron2_backbone: types.ModuleType,
    freeze_at: int,
    frozen: set[str],
    structure: dict[str, Any],
    pixels: Tensor,
    assert_trains: Any,
) -> None:
    torch.manual_seed(0)
    backbone = detectron2_backbone.ResNeXtBackbone(NAME, norm="frozen", **structure)
    assert backbone.freeze(freeze_at) is backbone
    constant = {name.split(".")[1] for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert constant == frozen
    images = pixels.float() - 110.0
    if frozen != {"conv1", "layer1", "layer2"}:
        assert_trains(backbone, sum(single.mean() for single in backbone(images).values() if single.requires_grad))


def test_freezing_more_than_there_is_freezes_all(
    detectron2_backbone: types.ModuleType, structure: dict[str, Any]
) -> None:
    backbone = detectron2_backbone.ResNeXtBackbone(NAME, freeze_at=9, **structure)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("order", "mean", "std"),
    [
        ("BGR", [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]),
        ("BGR", [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]),
        ("RGB", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
    ],
)
def test_any_pixel_setting_suits_the_weights(
    detectron2_backbone: types.ModuleType,
    order: str,
    mean: list[float],
    std: list[float],
    foreign_weights: str,
    structure: dict[str, Any],
    pixels: Tensor,
    reference: dict[str, Tensor],
) -> None:
    fed = InputFormat(order.lower(), 255.0, tuple(mean), tuple(std))
    backbone = detectron2_backbone.ResNeXtBackbone(NAME, foreign_weights, host_format=fed, **structure).eval()
    cfg = _cfg(detectron2_backbone)
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = order, mean, std
    with torch.no_grad():
        maps = backbone(_fed(pixels, cfg))
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    for got, expected in zip(maps.values(), reference.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_built_from_a_configuration(detectron2_backbone: types.ModuleType, pixels: Tensor) -> None:
    from detectron2.modeling import build_backbone

    cfg = _cfg(detectron2_backbone, NAME="resnext14_8x16d_small", NORM="batch", OUT_FEATURES=["res4"])
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "RGB", [120.0, 110.0, 100.0], [58.0, 57.0, 56.0]
    backbone = build_backbone(cfg).eval()
    assert {name: (shape.channels, shape.stride) for name, shape in backbone.output_shape().items()} == {
        "res4": (256, 16)
    }
    assert not backbone.network.layer1[0].conv1.weight.requires_grad, "FREEZE_AT is 2"
    assert backbone.network.layer2[0].conv1.weight.requires_grad
    with torch.no_grad():
        got = backbone(_fed(pixels, cfg))["res4"]
        expected = backbone.network(backbone.network.input_format.normalize(pixels))["c4"]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

    cfg.MODEL.RESNEXT.OUTPUT_STRIDE, cfg.MODEL.RESNEXT.OUT_FEATURES = 16, ["res5"]
    assert build_backbone(cfg).output_shape()["res5"].stride == 16
    cfg.INPUT.FORMAT = "YUV-BT.601"
    with pytest.raises(UserError, match=r"YUV-BT\.601"):
        build_backbone(cfg)


def test_grey_images(detectron2_backbone: types.ModuleType) -> None:
    from detectron2.modeling import build_backbone

    cfg = _cfg(detectron2_backbone, NAME="resnext14_8x16d_small")
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [115.0], [57.0]
    assert build_backbone(cfg)(torch.rand(1, 1, 64, 64))["res5"].shape == (1, 512, 2, 2)


def test_features_it_does_not_have(detectron2_backbone: types.ModuleType, structure: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"'stem'.*res2, res3, res4 and res5"):
        detectron2_backbone.ResNeXtBackbone(NAME, out_features=("stem",), **structure)
