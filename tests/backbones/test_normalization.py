"""Frozen BN computes what BN computes in evaluation mode; folding changes no output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from backbones import create_backbone, create_classifier, fold_batch_norm
from backbones.blocks import Bottleneck, convert
from backbones.errors import UserError
from backbones.normalization import FrozenBatchNorm2d, freeze_batch_norm, make_normalization


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
    network = randomize_norms(create_backbone("resnext14_8x16d_small")).eval()
    x = torch.randn(1, 3, 33, 35)
    before = network(x)
    freeze_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    after = network.train()(x)
    for level, expected in before.items():
        assert torch.equal(after[level], expected)
    plain = freeze_batch_norm(nn.BatchNorm2d(3, affine=False))
    assert isinstance(plain, FrozenBatchNorm2d)
    with pytest.raises(UserError, match="running statistics"):
        freeze_batch_norm(nn.BatchNorm2d(3, track_running_stats=False))


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
