"""torchvision's DeepLabV3 and FCN on our backbones, dilated as torchvision dilates its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.segmentation import FCN, DeepLabV3, deeplabv3_resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from backbones import IMAGENET, UserError
from backbones.adapters.segmentation import ATROUS_RATES, segmentation_backbone

NAME = "resnext50_32x4d"


@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_trains(output_stride: int, structure: dict[str, Any], pixels: Tensor, assert_trains: Any) -> None:
    torch.manual_seed(0)
    backbone = segmentation_backbone(NAME, output_stride=output_stride, freeze="stem", **structure)
    images = pixels.float() / 255.0
    maps = backbone(images)
    assert maps["out"].shape == (2, backbone.out_channels, 64 // output_stride, 96 // output_stride)
    assert maps["aux"].shape == (2, backbone.aux_channels, 64 // output_stride, 96 // output_stride)
    network = DeepLabV3(
        backbone,
        DeepLabHead(backbone.out_channels, 4, ATROUS_RATES[output_stride]),
        FCNHead(backbone.aux_channels, 4),
    )
    scores = network(images)
    assert scores["out"].shape == scores["aux"].shape == (2, 4, 64, 96)
    labels = torch.randint(0, 4, (2, 64, 96))
    assert_trains(network, sum(torch.nn.functional.cross_entropy(single, labels) for single in scores.values()))


def test_without_auxiliary_map(structure: dict[str, Any]) -> None:
    backbone = segmentation_backbone(NAME, output_stride=32, auxiliary=False, **structure)
    assert backbone.aux_channels is None
    scores = FCN(backbone, FCNHead(backbone.out_channels, 4)).eval()(torch.rand(1, 3, 64, 96))
    assert scores.keys() == {"out"}
    with pytest.raises(UserError, match="auxiliary=False"):
        segmentation_backbone(NAME, output_stride=4, depths=(1,))


def test_dilation_names_and_numbers_are_torchvisions(pixels: Tensor) -> None:
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).backbone.eval()
    ours = segmentation_backbone("resnet50", output_stride=8).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got, expected = ours(images), theirs(images)
    for name in ("out", "aux"):
        torch.testing.assert_close(got[name], expected[name], rtol=1e-4, atol=1e-4)


def test_pixels_arrive_in_the_convention_of_the_weights(
    foreign_weights: str, structure: dict[str, Any], pixels: Tensor, reference: dict[str, Tensor]
) -> None:
    backbone = segmentation_backbone(NAME, foreign_weights, output_stride=32, **structure).eval()
    with torch.no_grad():
        maps = backbone(IMAGENET.normalize(pixels))
    torch.testing.assert_close(maps["out"], reference["c5"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps["aux"], reference["c4"], rtol=1e-4, atol=1e-4)
