"""The networks compute what torchvision's and timm's do, with their state dicts as they stand."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from backbones import VARIANTS, ResNeXt, ResNeXtBackbone, create_backbone, create_c4, create_classifier
from backbones.common.errors import UserError
from backbones.variants import Variant, find_variant

torchvision_models = pytest.importorskip("torchvision").models
timm = pytest.importorskip("timm")

TIGHT = {"rtol": 1e-5, "atol": 1e-6}

PEERS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "torchvision resnet50": ("resnet50", lambda: torchvision_models.resnet50()),
    "torchvision resnext50_32x4d": ("resnext50_32x4d", lambda: torchvision_models.resnext50_32x4d()),
    "torchvision resnext101_32x8d": ("resnext101_32x8d", lambda: torchvision_models.resnext101_32x8d()),
    "torchvision resnext101_64x4d": ("resnext101_64x4d", lambda: torchvision_models.resnext101_64x4d()),
    "timm resnext101_32x4d": ("resnext101_32x4d", lambda: timm.create_model("resnext101_32x4d")),
}


def settle(network: nn.Module) -> nn.Module:
    """Random BN statistics and affine terms; the last BN of each block small, so that deep random networks stay
    finite."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                scale = 0.2 if name.endswith("bn3") else 1.0
                module.weight.copy_((torch.rand(module.weight.shape, generator=generator) + 0.5) * scale)
                module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network


def stage_maps(network: nn.Module, x: Tensor, stages: int = 4) -> dict[str, Tensor]:
    """Output of layer1 … layer4 of a network, and its logits."""
    maps: dict[str, Tensor] = {}
    handles = [
        getattr(network, f"layer{number}").register_forward_hook(
            lambda _module, _input, output, level=f"c{number + 1}": maps.__setitem__(level, output)
        )
        for number in range(1, stages + 1)
    ]
    maps["logits"] = network(x)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize("peer", PEERS)
def test_same_names_and_shapes_in_the_same_order_as_the_peer(peer: str) -> None:
    name, build = PEERS[peer]
    with torch.device("meta"):
        ours, theirs = create_classifier(name).state_dict(), build().state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [(key, value.shape) for key, value in theirs.items()]


@pytest.mark.parametrize("peer", ["torchvision resnet50", "torchvision resnext50_32x4d", "timm resnext101_32x4d"])
def test_same_features_and_logits_as_the_peer(peer: str) -> None:
    name, build = PEERS[peer]
    theirs = settle(build()).eval()
    ours = create_classifier(name).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = stage_maps(theirs, x)
        got = {**ours.feature_maps(x, ours.levels), "logits": ours(x)}
    assert got.keys() == expected.keys()
    for level in expected:
        torch.testing.assert_close(got[level], expected[level], **TIGHT)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_same_gradients_and_statistics_as_torchvision(training: bool) -> None:
    theirs = torchvision_models.ResNet(
        torchvision_models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5, groups=4, width_per_group=8
    )
    theirs = settle(theirs).double().train(training)
    ours = create_classifier("resnext50", 5, depths=(1, 2, 1, 1), cardinality=4, base_width=8).double().train(training)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 40, 48, dtype=torch.float64)
    for network in (ours, theirs):
        network(x).square().sum().backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-12, msg=name)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-10, atol=1e-12)


def test_same_gradients_as_torchvision_with_frozen_norm_and_fixed_parts() -> None:
    """A detector's trunk. Most maps are larger than their weights, so that BN is folded on the fly."""
    models, frozen = torchvision_models.resnet, importlib.import_module("torchvision").ops.FrozenBatchNorm2d
    settled = settle(models.ResNet(models.Bottleneck, [1, 2, 1, 1], 5, groups=4, width_per_group=8))
    theirs = models.ResNet(models.Bottleneck, [1, 2, 1, 1], 5, groups=4, width_per_group=8, norm_layer=frozen).double()
    theirs.load_state_dict(settled.state_dict())
    structure = {"depths": (1, 2, 1, 1), "cardinality": 4, "base_width": 8}
    ours = create_classifier("resnext50", 5, norm="frozen", **structure).double()
    ours.load_state_dict(theirs.state_dict())
    ours.freeze("c2")
    maps = ours.feature_maps(torch.randn(1, 3, 64, 64, dtype=torch.float64), ours.levels)
    assert [feature_map.requires_grad for feature_map in maps.values()] == [False, True, True, True]
    x = torch.randn(4, 3, 96, 128, dtype=torch.float64)
    for network in (ours, theirs):
        network(x).square().sum().backward()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if name.startswith(("conv1", "layer1")):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    ("output_stride", "replaced"), [(16, [False, False, True]), (8, [False, True, True]), (4, [True, True, True])]
)
def test_output_stride_by_dilation_is_torchvisions(output_stride: int, replaced: list[bool]) -> None:
    theirs = settle(torchvision_models.resnext50_32x4d(replace_stride_with_dilation=replaced)).eval()
    ours = create_backbone("resnext50_32x4d", output_stride=output_stride).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    x = torch.randn(1, 3, 65, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = stage_maps(theirs, x), ours(x)
    for level, stride in ours.strides.items():
        torch.testing.assert_close(got[level], expected[level], **TIGHT)
        assert got[level].shape[2:] == (math.ceil(65 / stride), math.ceil(70 / stride))
    assert ours.strides["c5"] == output_stride


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 96)])
def test_maps_have_the_declared_channels_and_strides_at_any_size(size: tuple[int, int]) -> None:
    backbone = create_backbone("resnext14_8x16d_small").eval()
    assert backbone.channels == {"c2": 64, "c3": 128, "c4": 256, "c5": 512}
    assert backbone.strides == {"c2": 4, "c3": 8, "c4": 16, "c5": 32}
    maps = backbone(torch.randn(2, 3, *size))
    assert list(maps) == ["c2", "c3", "c4", "c5"]
    for level, stride in backbone.strides.items():
        expected = (2, backbone.channels[level], math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert maps[level].shape == expected


def test_c4_trunk_and_conv5_are_the_two_halves_of_the_backbone() -> None:
    whole = settle(create_backbone("resnext14_8x16d_small", outputs=("c4", "c5"))).eval()
    trunk, conv5 = create_c4("resnext14_8x16d_small")
    trunk.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("layer4.")})
    conv5.load_state_dict(
        {k.removeprefix("layer4."): v for k, v in whole.state_dict().items() if k.startswith("layer4.")}
    )
    assert (trunk.channels, trunk.strides) == ({"c4": 256}, {"c4": 16})
    assert (conv5.in_channels, conv5.out_channels, conv5.stride) == (256, 512, 2)
    x = torch.randn(1, 3, 50, 60)
    expected = whole(x)
    maps = trunk.eval()(x)
    assert list(maps) == ["c4"]
    assert torch.equal(maps["c4"], expected["c4"])
    assert torch.equal(conv5.eval()(maps["c4"]), expected["c5"])
    assert conv5(torch.randn(5, 256, 7, 7)).shape == (5, 512, 4, 4)


def test_stages_beyond_the_last_output_are_not_built() -> None:
    backbone = create_backbone("resnext14_8x16d_small", outputs=("c3",))
    assert {name.split(".")[0] for name in backbone.state_dict()} == {"conv1", "bn1", "layer1", "layer2"}
    assert list(backbone(torch.randn(1, 3, 32, 32))) == ["c3"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_builds_and_every_parameter_is_used(name: str) -> None:
    """On the meta device, by shapes alone: the forward pass runs and declares its maps truly."""
    variant = VARIANTS[name]
    with torch.device("meta"):
        classifier = create_classifier(name, 7)
        x = torch.empty(2, 3, 64, 64)
    maps = stage_maps(classifier, x, len(variant.depths))
    assert maps.pop("logits").shape == (2, 7)
    assert list(maps) == list(variant.levels)
    for level, feature_map in maps.items():
        assert feature_map.shape[1] == variant.channels[level]
        assert feature_map.shape[2] == 64 // variant.strides[level]
    for index, depth in enumerate(variant.depths):
        stage = classifier.stage(variant.levels[index])
        assert len(stage) == depth
        assert {block.conv2.groups for block in stage} == {variant.cardinality}
        assert {block.conv2.out_channels for block in stage} == {variant.group_widths[index]}


@pytest.mark.parametrize("norm", ["batch", "group", "frozen"])
def test_every_parameter_gets_a_gradient(norm: str) -> None:
    classifier = create_classifier("resnext14_8x16d_small", 3, norm=norm)
    classifier(torch.randn(2, 3, 64, 64)).logsumexp(1).sum().backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_without_residual_connections_nothing_is_added() -> None:
    """The paper's ablation: same layers, no shortcut and no projection."""
    plain = create_classifier("resnext14_8x16d_small", 4, residual=False, depths=(2, 2, 1, 1))
    assert not [name for name in plain.state_dict() if "downsample" in name]
    residual = create_classifier("resnext14_8x16d_small", 4, depths=(2, 2, 1, 1)).eval()
    residual.load_state_dict(plain.state_dict(), strict=False)
    for module in residual.modules():
        if hasattr(module, "downsample"):
            module.residual = False  # our residual network with its additions switched off
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(plain.eval()(x), residual(x))


def test_initial_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    classifier = create_classifier("resnext50_32x4d", 10)
    for name, module in classifier.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 20000:
            expected = math.sqrt(2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.03), name
            assert abs(module.weight.mean().item()) < 0.03 * expected, name
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all(), name  # the last BN of a block as well
    assert classifier.fc.bias.eq(0).all()


def test_channels_last_and_compile_give_the_same() -> None:
    network = settle(create_backbone("resnext14_8x16d_small", norm="batch", freeze="c2")).eval()
    x = torch.randn(2, 3, 48, 56)
    expected = network(x)
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    for level in expected:
        torch.testing.assert_close(last[level], expected[level], rtol=1e-4, atol=1e-5)
        assert last[level].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_compiles_without_a_graph_break(norm: str) -> None:
    """The eager backend traces the whole graph, forward and backward, and runs it; `fullgraph` makes a break an
    error."""
    network = settle(create_backbone("resnext14_8x16d_small", outputs=("c3",), norm=norm, freeze="c2"))
    x = torch.randn(2, 3, 48, 56)
    network.eval()
    expected = network(x)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    got = compiled(x)
    for level in expected:
        torch.testing.assert_close(got[level], expected[level], **TIGHT)
    sum(feature_map.sum() for feature_map in got.values()).backward()
    assert network.layer2[0].conv1.weight.grad is not None
    assert network.layer1[0].conv1.weight.grad is None


def test_wrong_outputs_and_classes_are_refused() -> None:
    with pytest.raises(UserError, match="c2, c3, c4, c5"):
        create_backbone("resnext14_8x16d_small", outputs=("c6",))
    with pytest.raises(UserError, match="at least one"):
        ResNeXtBackbone(VARIANTS["resnext14_8x16d_small"], ())
    with pytest.raises(UserError, match="num_classes is 0"):
        ResNeXt(VARIANTS["resnext14_8x16d_small"], 0)


@pytest.mark.parametrize(
    ("name", "structure", "message"),
    [
        ("resnext50_32x4", {}, "did you mean 'resnext50_32x4d'"),
        ("resnext37_32x4d", {}, "unknown network"),
        ("resnext50", {"cardinalty": 8}, "did you mean 'cardinality'"),
        ("resnext50", {"cardinality": 0}, "cardinality is 0"),
        ("resnext50", {"base_width": 4.0}, "base_width is 4.0"),
        ("resnext50", {"depths": 3}, "depths is 3"),
        ("resnext50", {"depths": (3, 0)}, r"depths\[1\] is 0"),
        ("resnext50", {"depths": (1,) * 5}, "1 to 4 stages"),
        ("resnext50", {"planes": 8}, "less than a channel a path"),
        ("resnext50", {"output_stride": 12}, "one of 4, 8, 16, 32"),
        ("resnext50", {"stem": "deep"}, "imagenet, cifar"),
        ("resnext50", {"residual": "no"}, "true or false"),
    ],
)
def test_wrong_numbers_are_refused_with_the_remedy(name: str, structure: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_variant(name, structure)


def test_names_find_their_numbers() -> None:
    assert find_variant("resnext50", {}) == VARIANTS["resnext50_32x4d"]
    assert find_variant("resnet50", {}) == find_variant("resnext50_1x64d", {}) == VARIANTS["resnet50"]
    assert find_variant("resnext101_16x8d", {}) == Variant((3, 4, 23, 3), 16, 8)
    assert find_variant("resnext29_2x64d", {}) == Variant((3, 3, 3), 2, 64, stem="cifar")
    assert find_variant("resnext50", {"cardinality": 16, "base_width": 8}) == Variant((3, 4, 6, 3), 16, 8)
    assert find_variant("resnext50", {"depths": [1, 1, 1, 1]}).depths == (1, 1, 1, 1)
    for name, variant in VARIANTS.items():
        assert find_variant(name, {}) == variant


def test_group_width_follows_the_formula() -> None:
    assert VARIANTS["resnext50_32x4d"].group_widths == (128, 256, 512, 1024)
    assert VARIANTS["resnext50_8x14d"].group_widths == (112, 224, 448, 896)
    assert VARIANTS["resnet101_1x100d"].group_widths == (100, 200, 400, 800)
    assert VARIANTS["resnext14_8x16d_small"].group_widths == (32, 64, 128, 256)
    assert Variant((1, 1), 3, 5, planes=48).group_widths == (9, 21)  # floor(48 · 5 / 64) = 3, floor(96 · 5 / 64) = 7
