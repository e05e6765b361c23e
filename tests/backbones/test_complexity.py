"""Parameters and multiply-adds against the paper, the published models and torch's own counter."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import VARIANTS, create_backbone, create_classifier
from backbones.common.errors import UserError
from backbones.complexity import bottleneck_parameters, measure, measure_variant, solve_width
from backbones.paper_figures import PAPER_FIGURES


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    [
        ("resnet50", 25_557_032, 4.09),
        ("resnext50_32x4d", 25_028_904, 4.23),
        ("resnext101_32x8d", 88_791_336, 16.41),
        ("resnext101_64x4d", 83_455_272, 15.46),
    ],
)
def test_oracles(name: str, parameters: int, multiply_adds: float) -> None:
    complexity = measure_variant(VARIANTS[name], (224, 224), 1000)
    assert complexity.parameters == parameters
    assert round(complexity.multiply_adds / 1e9, 2) == multiply_adds


@pytest.mark.parametrize("name", [name for name, figures in PAPER_FIGURES.items() if figures.parameters])
def test_the_papers_sizes_to_the_printed_digit(name: str) -> None:
    """Table 1 and Table 7: 25.5 M, 25.0 M, 34.4 M and 68.1 M; 4.1 G and 4.2 G."""
    figures, variant = PAPER_FIGURES[name], VARIANTS[name]
    cifar = variant.stem == "cifar"
    complexity = measure_variant(variant, (32, 32) if cifar else (224, 224), 10 if cifar else 1000)
    assert _one_digit(complexity.weights / 1e6) == figures.parameters
    if figures.multiply_adds:
        assert _one_digit(complexity.multiply_adds / 1e9) == figures.multiply_adds


@pytest.mark.parametrize("name", ["resnext50_8x14d", "resnet101", "resnext29_2x8d", "resnext14_8x16d_small"])
@pytest.mark.parametrize("size", [(224, 224), (75, 97)])
def test_multiply_adds_are_half_of_torchs_flops(name: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = create_classifier(name, 11)
        counter = FlopCounterMode(display=False)
        with counter:
            network(torch.empty(1, 3, *size))
    complexity = measure(network, size)
    assert complexity.multiply_adds * 2 == counter.get_total_flops()
    assert complexity.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_dilated_backbones_other_channels_and_foreign_networks_are_counted_too() -> None:
    with torch.device("meta"):
        backbone = create_backbone("resnext50_32x4d", outputs=("c3", "c5"), output_stride=8, in_channels=5)
        with FlopCounterMode(display=False) as counter:
            backbone(torch.empty(1, 5, 64, 64))
    assert measure(backbone, (64, 64), 5).multiply_adds * 2 == counter.get_total_flops()
    resnet18 = pytest.importorskip("torchvision").models.resnet18()
    assert measure(resnet18, (224, 224)).parameters == 11_689_512
    assert round(measure(resnet18, (224, 224)).multiply_adds / 1e9, 2) == 1.81


def test_parts_are_table_1() -> None:
    """Output sizes and blocks of Table 1's column for ResNeXt-50; a stage's multiply-adds are within a tenth of
    another's."""
    parts = {part.name: part for part in measure_variant(VARIANTS["resnext50_32x4d"], (224, 224), 1000).parts}
    assert list(parts) == ["stem", "c2", "c3", "c4", "c5", "fc"]
    assert {name: part.output_size for name, part in parts.items()} == {
        "stem": (112, 112), "c2": (56, 56), "c3": (28, 28), "c4": (14, 14), "c5": (7, 7), "fc": (),
    }  # fmt: skip
    assert parts["stem"].multiply_adds == 7 * 7 * 3 * 64 * 112 * 112
    assert parts["fc"].parameters == 2048 * 1000 + 1000
    # c2: a first block with projection from 64 channels, and two blocks of Eq. 4
    first = 64 * 128 + 9 * 128 * 128 // 32 + 128 * 256 + 64 * 256
    assert parts["c2"].parameters - parts["c2"].norm_parameters == first + 2 * bottleneck_parameters(32, 4)


def test_measuring_leaves_the_network_alone() -> None:
    network = create_classifier("resnext14_8x16d_small", 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measure(network, (32, 32))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_equation_4() -> None:
    assert bottleneck_parameters(1, 64) == 256 * 64 + 3 * 3 * 64 * 64 + 64 * 256
    assert bottleneck_parameters(32, 4) == 32 * (256 * 4 + 3 * 3 * 4 * 4 + 4 * 256)
    block = VARIANTS["resnext50_8x14d"]
    with torch.device("meta"):
        second = create_classifier("resnext50_8x14d").layer1[1]
    weights = sum(module.weight.numel() for module in second.modules() if isinstance(module, nn.Conv2d))
    assert weights == bottleneck_parameters(block.cardinality, block.base_width)


def test_table_2_is_solved_for() -> None:
    reference = bottleneck_parameters(1, 64)
    widths = {cardinality: solve_width(cardinality, reference) for cardinality in (1, 2, 4, 8, 32)}
    assert widths == {1: 64, 2: 40, 4: 24, 8: 14, 32: 4}
    assert [cardinality * width for cardinality, width in widths.items()] == [64, 80, 96, 112, 128]


@pytest.mark.parametrize("cardinality", [1, 3, 5, 16, 48, 100])
def test_solved_width_is_the_closest_of_all(cardinality: int) -> None:
    target = 70_000
    best = min(range(1, 200), key=lambda width: abs(bottleneck_parameters(cardinality, width) - target))
    assert solve_width(cardinality, target) == best


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UserError, match="cardinality 1000 is too high"):
        solve_width(1000, 69_632)
    with pytest.raises(UserError, match="1×1 pixels"):
        measure(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 1))


def _one_digit(value: float) -> float:
    return float(Decimal(value).quantize(Decimal("0.1"), ROUND_HALF_UP))
