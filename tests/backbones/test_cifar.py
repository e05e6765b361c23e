"""ResNeXt-29 (appendix A of the paper)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from backbones import create_backbone, create_classifier
from backbones.cifar import CIFAR
from backbones.common.errors import UserError


def test_layers_are_twenty_nine_and_maps_are_the_papers() -> None:
    with torch.device("meta"):
        network = create_classifier("resnext29_8x64d", 10)
        maps = network.feature_maps(torch.empty(1, 3, 32, 32), network.levels)
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "downsample" not in name
    ]
    assert len(layers) == 29
    assert {level: tuple(feature_map.shape[1:]) for level, feature_map in maps.items()} == {
        "c2": (256, 32, 32),
        "c3": (512, 16, 16),
        "c4": (1024, 8, 8),
    }
    assert (network.conv1.kernel_size, network.conv1.stride) == ((3, 3), (1, 1))
    # [1×1, 64 · 3×3, 64 · 1×1, 256] a path, eight paths
    block = network.layer1[0]
    assert (block.conv1.out_channels, block.conv2.groups, block.conv3.out_channels) == (512, 8, 256)


@pytest.mark.parametrize(("name", "cardinality", "width"), [("resnext29_3x5d", 3, 15), ("resnext29", 8, 512)])
def test_any_cardinality_and_width_by_name(name: str, cardinality: int, width: int) -> None:
    with torch.device("meta"):
        block = create_classifier(name, 10).layer1[0]
    assert (block.conv2.groups, block.conv2.out_channels) == (cardinality, width)


def test_learns_from_a_batch() -> None:
    torch.manual_seed(0)
    network = create_classifier("resnext29_2x4d", 3, depths=(1, 1, 1), planes=16, base_width=16)
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_expects_cifars_own_normalisation() -> None:
    network = create_classifier("resnext29_2x4d", 10)
    assert network.input_format is CIFAR
    white = network.input_format.normalize(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    expected = [(255 - 125.3) / 63.0, (255 - 123.0) / 62.1, (255 - 113.9) / 66.7]
    torch.testing.assert_close(white.flatten(), torch.tensor(expected))


def test_as_a_backbone_with_dilation() -> None:
    backbone = create_backbone("resnext29_2x4d", outputs=("c3", "c4"), output_stride=2)
    assert backbone.strides == {"c3": 2, "c4": 2}
    maps = backbone(torch.randn(1, 3, 20, 20))
    assert [tuple(feature_map.shape[2:]) for feature_map in maps.values()] == [(10, 10), (10, 10)]
    with pytest.raises(UserError, match="one of 1, 2, 4"):
        create_backbone("resnext29_2x4d", output_stride=8)
    with pytest.raises(UserError, match="c2, c3, c4"):
        create_backbone("resnext29_2x4d", outputs=("c5",))
