"""MMDetection's contract, on MMDetection where it is installed and on a stand-in by its documentation otherwise."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnext50_32x4d

from backbones import UserError

NAME = "resnext50_32x4d"


def _preprocessed(pixels: Tensor) -> Tensor:
    """What DetDataPreprocessor gives with the numbers of MMDetection's configurations, bgr_to_rgb included."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return (pixels - mean[:, None, None]) / std[:, None, None]


def _build(adapter: types.ModuleType, **settings: Any) -> Any:
    from mmdet.registry import MODELS

    backbone = MODELS.build({"type": "ResNeXtBackbone", "name": NAME, **settings})
    assert isinstance(backbone, adapter.ResNeXtBackbone)
    return backbone


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (2,)])
def test_a_tuple_of_the_maps_asked_for(
    mmdetection_backbone: types.ModuleType, out_indices: tuple[int, ...], structure: dict[str, Any]
) -> None:
    backbone = _build(mmdetection_backbone, out_indices=out_indices, **structure)
    maps = backbone(torch.rand(1, 3, 64, 96))
    assert isinstance(maps, tuple)
    assert [tuple(single.shape) for single in maps] == [
        (1, 64 * 2**index, 16 // 2**index, 24 // 2**index) for index in out_indices
    ]
    assert backbone.channels == tuple(single.shape[1] for single in maps)
    assert hasattr(backbone, "layer4") == (3 in out_indices)


@pytest.mark.parametrize("norm_eval", [True, False])
@pytest.mark.parametrize("frozen_stages", [-1, 0, 1, 2])
def test_frozen_stages_and_norm_eval(
    mmdetection_backbone: types.ModuleType,
    frozen_stages: int,
    norm_eval: bool,
    structure: dict[str, Any],
    pixels: Tensor,
    assert_trains: Any,
) -> None:
    torch.manual_seed(0)
    backbone = _build(mmdetection_backbone, frozen_stages=frozen_stages, norm_eval=norm_eval, **structure)
    assert backbone.training
    assert backbone.eval() is backbone
    assert backbone.train() is backbone
    frozen = ["conv1", "bn1", "layer1", "layer2"][: {-1: 0, 0: 2, 1: 3, 2: 4}[frozen_stages]]
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    maps = backbone(_preprocessed(pixels))
    for name, tensor in backbone.state_dict().items():
        if name.endswith("running_mean"):
            moved = not torch.equal(tensor, before[name])
            assert moved == (not norm_eval and name.split(".")[0] not in frozen), name
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen), name
    if frozen_stages < 2:
        assert_trains(backbone, sum(single.square().mean() for single in maps if single.requires_grad))


def test_pixels_arrive_in_the_convention_of_the_weights(
    mmdetection_backbone: types.ModuleType,
    foreign_weights: str,
    structure: dict[str, Any],
    pixels: Tensor,
    reference: dict[str, Tensor],
) -> None:
    backbone = _build(mmdetection_backbone, weights=foreign_weights, **structure).eval()
    with torch.no_grad():
        maps = backbone(_preprocessed(pixels))
    for got, expected in zip(maps, reference.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    # A preprocessor of bgr_to_rgb=False and no normalisation, as a configuration writes it
    raw = {"channel_order": "bgr", "value_range": 255.0, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    backbone = _build(mmdetection_backbone, weights=foreign_weights, host_format=raw, **structure).eval()
    with torch.no_grad():
        maps = backbone(pixels.flip(1).float())
    torch.testing.assert_close(maps[-1], reference["c5"], rtol=1e-4, atol=1e-4)


def test_init_cfg_loads_files_of_torchvisions_names(mmdetection_backbone: types.ModuleType, tmp_path: Path) -> None:
    theirs = resnext50_32x4d(weights=None).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "theirs.pth")
    settings = {"type": "Pretrained", "checkpoint": str(tmp_path / "theirs.pth")}
    backbone = _build(mmdetection_backbone, init_cfg=settings, frozen_stages=1).eval()
    backbone.init_weights()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got = backbone(images)[-1]
        expected = nn.Sequential(*list(theirs.children())[:-2])(images)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="both weights"):
        _build(mmdetection_backbone, weights="default", init_cfg=settings)


def test_initialising_keeps_the_weights(
    mmdetection_backbone: types.ModuleType, foreign_weights: str, structure: dict[str, Any]
) -> None:
    """A detector calls init_weights of all its parts."""
    backbone = _build(mmdetection_backbone, weights=foreign_weights, **structure)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out_indices": (0, 4)}, "out_indices is .*0 to 3"),
        ({"out_indices": ()}, "out_indices"),
        ({"out_indices": (0, 1), "frozen_stages": 3}, "frozen_stages is 3.*-1 to 2"),
        ({"frozen_stages": -2}, "frozen_stages"),
    ],
)
def test_stages_it_does_not_have(
    mmdetection_backbone: types.ModuleType, settings: dict[str, Any], message: str, structure: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message):
        _build(mmdetection_backbone, **settings, **structure)
