"""Frozen BN computes what BN computes in evaluation mode; folding changes no output."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from backbones import create_backbone, create_classifier, fold_batch_norm, onednn_pointwise_convolutions
from backbones.blocks import Bottleneck
from backbones.common.errors import UserError
from backbones.equivalent_forms import convert
from backbones.normalization import FrozenBatchNorm2d, conv_norm, freeze_batch_norm, make_normalization
from backbones.pointwise import PointwiseConvolution


def randomize_norms(network: nn.Module) -> nn.Module:
    """Statistics and affine terms away from 1 and 0, variances that eps matters to among them."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.5)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 1e-6)
    return network


def test_frozen_equals_batch_norm_in_evaluation_mode_to_the_bit() -> None:
    batch = randomize_norms(nn.BatchNorm2d(6)).eval()
    frozen = FrozenBatchNorm2d(6)
    frozen.load_state_dict(batch.state_dict())  # num_batches_tracked is accepted
    frozen.train()
    x = torch.randn(2, 6, 4, 3)
    assert torch.equal(frozen(x), batch(x))
    assert torch.equal(frozen(x.requires_grad_()), batch(x))
    assert not list(frozen.parameters())
    nn.BatchNorm2d(6).load_state_dict(frozen.state_dict())  # and the other way round


@pytest.mark.parametrize("channels_last", [False, True])
def test_frozen_gradient(channels_last: bool) -> None:
    frozen = randomize_norms(FrozenBatchNorm2d(3).double())
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.autograd.gradcheck(frozen, (x.requires_grad_(),))
    torch.autograd.gradgradcheck(frozen, (x,))
    if channels_last:
        assert frozen(x).is_contiguous(memory_format=torch.channels_last)


def test_frozen_keeps_eps_where_a_channel_has_no_variance() -> None:
    frozen = FrozenBatchNorm2d(1)
    frozen.running_var.zero_()
    torch.testing.assert_close(frozen(torch.full((1, 1, 1, 1), 1e-3)).item(), 1e-3 / 1e-5**0.5)


def test_frozen_keeps_low_precision_maps_low_and_statistics_high() -> None:
    frozen = randomize_norms(FrozenBatchNorm2d(4))
    x = torch.randn(2, 4, 3, 3).bfloat16()
    out = frozen(x.clone().requires_grad_())
    assert out.dtype == torch.bfloat16
    assert frozen.running_mean.dtype == torch.float32
    torch.testing.assert_close(out.float(), frozen(x.float()), rtol=2**-8, atol=1e-6)
    out.sum().backward()


def test_frozen_saves_no_map_for_backward() -> None:
    """Only per-channel numbers are kept, which is what makes a frozen backbone cheap to train through."""
    saved: list[int] = []
    frozen = FrozenBatchNorm2d(4)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        frozen(torch.randn(2, 4, 16, 16, requires_grad=True))
    assert saved == [4, 4]


def test_freeze_replaces_every_batch_norm_and_computes_the_same() -> None:
    network = randomize_norms(create_backbone("resnext14_8x16d_small")).double().eval()
    x = torch.randn(1, 3, 33, 35, dtype=torch.float64)
    before = network(x)
    freeze_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    after = network.train()(x)
    for level, expected in before.items():
        torch.testing.assert_close(after[level], expected, rtol=1e-10, atol=1e-10)
    plain = freeze_batch_norm(nn.BatchNorm2d(3, affine=False))
    assert isinstance(plain, FrozenBatchNorm2d)
    with pytest.raises(UserError, match="running statistics"):
        freeze_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "1x1": {"kernel_size": 1},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 4},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "with a bias": {"kernel_size": 1, "bias": True},
}


def _pair(**options: Any) -> tuple[nn.Conv2d, FrozenBatchNorm2d]:
    torch.manual_seed(2)
    frozen = randomize_norms(FrozenBatchNorm2d(12))
    assert isinstance(frozen, FrozenBatchNorm2d)
    return nn.Conv2d(8, 12, **{"bias": False, **options}), frozen


def _is_folded(y: Tensor) -> bool:
    """One convolution, instead of a normalisation behind one."""
    assert y.grad_fn is not None
    return y.grad_fn.name() == "ConvolutionBackward0"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_folding_on_the_fly_is_exact_forwards_and_backwards(options: dict[str, Any], channels_last: bool) -> None:
    conv, norm = _pair(**options)
    conv, norm = conv.double(), norm.double()
    x = torch.randn(2, 8, 17, 19, dtype=torch.float64)
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    leaves = (x.requires_grad_(), *conv.parameters())
    got = conv_norm(conv, norm, x)
    assert _is_folded(got)
    expected = functional.batch_norm(conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
    weighting = torch.randn_like(got)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    gradients = torch.autograd.grad(got, leaves, weighting)
    for own, plain in zip(gradients, torch.autograd.grad(expected, leaves, weighting), strict=True):
        assert plain.abs().max() > 0.1
        torch.testing.assert_close(own, plain, rtol=0, atol=1e-10)


def test_folding_on_the_fly_keeps_the_input_and_no_other_map_for_backward() -> None:
    conv, norm = _pair(kernel_size=1)
    x = torch.randn(1, 8, 16, 16, requires_grad=True)
    saved: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(tuple(t.shape)) or t, lambda t: t):
        conv_norm(conv, norm, x)
    assert [shape for shape in saved if len(shape) == 4 and shape[0] == 1] == [(1, 8, 16, 16)]
    assert sum(len(shape) == 4 and shape[2] > 1 for shape in saved) == 1


def test_a_map_smaller_than_the_weight_is_not_folded() -> None:
    conv, norm = _pair(kernel_size=3, padding=1)  # 72 weights a channel
    for size, is_folded in ((8, False), (9, True)):
        y = conv_norm(conv, norm, torch.randn(1, 8, size, size))
        assert _is_folded(y) is is_folded
    conv, norm = _pair(kernel_size=3, padding=1, stride=2)
    for size, is_folded in ((16, False), (18, True)):
        y = conv_norm(conv, norm, torch.randn(1, 8, size, size))
        assert _is_folded(y) is is_folded


@pytest.mark.parametrize("place", [0, 1], ids=["convolution", "normalisation"])
def test_layers_with_hooks_are_called(place: int) -> None:
    pair = _pair(kernel_size=1)
    conv, norm = pair
    x = torch.randn(1, 8, 16, 16)
    folded = conv_norm(conv, norm, x)
    seen: list[Tensor] = []
    handle = pair[place].register_forward_hook(lambda _module, _input, output: seen.append(output))
    called = conv_norm(conv, norm, x)
    handle.remove()
    torch.testing.assert_close(called, folded)
    assert len(seen) == 1
    assert torch.equal(seen[0], (conv(x), called)[place])
    assert _is_folded(conv_norm(conv, norm, x)), "with its hooks removed"


def test_under_autocast_the_weight_is_folded_in_float32() -> None:
    conv, norm = _pair(kernel_size=1)
    x = torch.randn(1, 8, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv_norm(conv, norm, x)
    assert y.dtype == torch.bfloat16
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = (conv.weight * scale[:, None, None, None]).bfloat16()
    bias = (norm.bias - norm.running_mean * scale).bfloat16()
    assert torch.equal(y, functional.conv2d(x.bfloat16(), weight, bias))
    y.float().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_folding_changes_no_output_in_float64(norm: str) -> None:
    network = randomize_norms(create_backbone("resnext14_8x16d_small", norm=norm, depths=(2, 1, 1, 1)).double()).eval()
    original = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)) for module in folded.modules())
    x = torch.randn(2, 3, 37, 43, dtype=torch.float64)
    expected = network(x)
    for level, got in folded(x).items():
        torch.testing.assert_close(got, expected[level], rtol=1e-10, atol=1e-10)
    assert all(torch.equal(tensor, original[name]) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert any(parameter.requires_grad for parameter in network.parameters())


def test_convolutions_that_were_placed_are_folded_too() -> None:
    network = randomize_norms(create_backbone("resnext14_8x16d_small", norm="frozen")).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = fold_batch_norm(network)(x)["c5"]
    onednn_pointwise_convolutions(network)
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x)["c5"], expected, rtol=1e-4, atol=1e-4)
    block = network.layer1[0]  # type: ignore[index]
    assert type(block.conv1) is PointwiseConvolution
    assert _is_folded(conv_norm(block.conv1, block.bn1, torch.randn(1, 32, 32, 32)))


def test_folding_works_on_other_libraries_and_on_existing_biases() -> None:
    models = pytest.importorskip("torchvision").models
    theirs = randomize_norms(models.resnet18(num_classes=4)).double().eval()
    x = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(fold_batch_norm(theirs)(x), theirs(x), rtol=1e-10, atol=1e-10)
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), randomize_norms(nn.BatchNorm2d(4)), nn.BatchNorm2d(4, affine=False))
    pair = pair.double().eval()
    torch.testing.assert_close(fold_batch_norm(pair)(x), pair(x), rtol=1e-10, atol=1e-10)


def test_folding_keeps_channels_last_and_leaves_group_norm_and_sums_alone() -> None:
    network = create_classifier("resnext14_8x16d_small", 5, norm="group").eval()
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(fold_batch_norm(network)(x), network(x))
    split = convert(randomize_norms(Bottleneck(16, 4, 8, 4)).double(), "a").eval()
    folded = fold_batch_norm(split)
    assert isinstance(folded.bn3, nn.BatchNorm2d)
    y = torch.randn(1, 16, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(folded(y), split(y), rtol=1e-10, atol=1e-10)
    last = fold_batch_norm(create_classifier("resnext14_8x16d_small", 5).to(memory_format=torch.channels_last))
    assert last.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(UserError, match="running statistics"):
        fold_batch_norm(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (80, 16), (112, 16), (100, 4)])
def test_group_norm_divides_the_channels(channels: int, groups: int) -> None:
    norm = make_normalization("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_unknown_normalization_is_refused() -> None:
    with pytest.raises(UserError, match="batch, frozen, group"):
        make_normalization("layer", 4)


def test_synchronised_batch_norm_of_one_process_is_batch_norm_to_the_bit() -> None:
    """In training and after it, with the same names in the state dict; frozen and folded, too."""
    torch.manual_seed(0)
    batch, sync = (
        create_backbone("resnext50_32x4d", None, ("c2",), norm=norm, depths=(1, 1, 1, 1))
        for norm in ("batch", "sync_batch")
    )
    sync.load_state_dict(batch.state_dict())
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in sync.modules()) == 5
    images = torch.randn(2, 3, 64, 64)
    for network in (batch, sync):
        network.train()(images)["c2"].square().mean().backward()
    for (name, value), (other_name, other) in zip(batch.named_parameters(), sync.named_parameters(), strict=True):
        assert name == other_name
        assert value.grad is not None
        assert other.grad is not None
        assert torch.equal(value.grad, other.grad)
    state = sync.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in batch.state_dict().items())
    expected = batch.eval()(images)["c2"]
    assert torch.equal(sync.eval()(images)["c2"], expected)
    folded = fold_batch_norm(sync)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in folded.modules())
    torch.testing.assert_close(folded(images)["c2"], expected, atol=1e-4, rtol=1e-4)
    sync.freeze("c2")
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in sync.modules())
    torch.testing.assert_close(sync.train()(images)["c2"], expected)
