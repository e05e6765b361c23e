"""The three forms of Fig. 3 are one function, and two layers aggregated are a wide dense block (Fig. 4)."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from backbones import create_backbone
from backbones.blocks import Bottleneck
from backbones.common.errors import UserError
from backbones.equivalent_forms import (
    FORMS,
    AggregatedTwoLayer,
    WideTwoLayer,
    convert,
    convert_state,
    join_paths,
    split_paths,
)
from backbones.normalization import fold_batch_norm

EXACT = {"rtol": 0.0, "atol": 1e-10}
PAIRS = list(itertools.permutations("abc", 2))
SHAPES = {
    "identity": {"in_channels": 32, "stride": 1},
    "projection": {"in_channels": 12, "stride": 2},
    "dilated": {"in_channels": 32, "stride": 1, "dilation": 2},
    "no residual": {"in_channels": 12, "stride": 2, "residual": False},
}


def _randomized(block: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and statistic away from its initial value, so that a mixed-up channel shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in block.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.5)
            else:
                tensor.fill_(7)
    return block


def _run(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output, the gradient of the input, and those of the parameters, for a fixed random gradient of the output."""
    x = x.clone().requires_grad_()
    out = block(x)
    generator = torch.Generator().manual_seed(9)
    out.backward(torch.randn(out.shape, generator=generator, dtype=out.dtype))
    assert x.grad is not None
    gradients = {name: parameter.grad for name, parameter in block.named_parameters()}
    return out.detach(), x.grad, {name: gradient for name, gradient in gradients.items() if gradient is not None}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversion_keeps_outputs_gradients_and_statistics(
    source: str, target: str, shape: dict[str, int], training: bool
) -> None:
    cardinality = 4
    block = FORMS[source](planes=8, group_width=12, cardinality=cardinality, **shape)
    block = _randomized(block.double()).train(training)
    other = convert(block, target)
    assert type(other) is FORMS[target]
    assert other.training is training
    x = torch.randn(3, shape["in_channels"], 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    out, input_gradient, gradients = _run(block, x)
    other_out, other_input_gradient, other_gradients = _run(other, x)

    torch.testing.assert_close(other_out, out, **EXACT)
    torch.testing.assert_close(other_input_gradient, input_gradient, **EXACT)
    expected = convert_state(gradients, source, target, cardinality)
    assert expected.keys() == other_gradients.keys()
    assert len(gradients) == len(list(block.parameters()))
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, f"{name} got no gradient: nothing was compared"
        torch.testing.assert_close(other_gradients[name], gradient, **EXACT)
    # BN running statistics after the pass (training mode moved them)
    expected_state = convert_state(block.state_dict(), source, target, cardinality)
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, expected_state[name], **EXACT)
        if name.endswith("num_batches_tracked"):
            assert tensor == (8 if training else 7)


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_conversion_there_and_back_is_the_same_bits(source: str, target: str) -> None:
    block = _randomized(FORMS[source](16, 4, 8, 4))
    back = convert(convert(block, target), source)
    for (name, tensor), (other_name, other) in zip(block.state_dict().items(), back.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(tensor, other)


def test_conversion_works_with_frozen_norm_and_refuses_what_it_cannot_do() -> None:
    block = _randomized(Bottleneck(16, 4, 8, 4, norm="frozen").double())
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    out, input_gradient, gradients = _run(block, x)
    for form in "ab":
        other_out, other_input_gradient, other_gradients = _run(convert(block, form), x)
        torch.testing.assert_close(other_out, out, **EXACT)
        torch.testing.assert_close(other_input_gradient, input_gradient, **EXACT)
        expected = convert_state(gradients, "c", form, 4)
        assert expected.keys() == other_gradients.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(other_gradients[name], gradient, **EXACT)
    with pytest.raises(UserError, match="with their BN"):
        convert(fold_batch_norm(block), "a")
    with pytest.raises(UserError, match="Conv2d: only blocks of the forms"):
        convert(nn.Conv2d(3, 3, 3), "a")
    with pytest.raises(UserError, match="GroupNorm"):
        convert(Bottleneck(16, 4, 8, 4, norm="group"), "b")
    with pytest.raises(UserError, match="unknown form 'd'"):
        convert(Bottleneck(16, 4, 8, 4), "d")


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_stage_converts_into_frozen_blocks(form: str) -> None:
    backbone = create_backbone("resnext14_8x16d_small", freeze="c2").train()
    frozen, free = _randomized(backbone.layer1[0]), _randomized(backbone.layer2[0])
    x = torch.randn(2, 32, 9, 7)
    for block, trains in ((frozen, False), (free, True)):
        converted = convert(block, form)
        torch.testing.assert_close(converted(x), block(x), rtol=1e-4, atol=1e-4)
        assert {parameter.requires_grad for parameter in converted.parameters()} == {trains}
        assert any(isinstance(module, nn.BatchNorm2d) for module in converted.modules()) == trains
        x = block(x)


def test_forms_are_really_different_modules() -> None:
    """Form (a) is C separate paths, (b) concatenates, (c) groups: not one implementation under three names."""
    groups = {
        form: [module.groups for module in block(16, 4, 8, 4).modules() if isinstance(module, nn.Conv2d)]
        for form, block in FORMS.items()
    }
    assert groups == {"a": [1] * 12, "b": [1] * 9, "c": [1, 4, 1]}


def test_bn_of_form_a_stands_after_the_aggregation_and_before_the_shortcut() -> None:
    block = _randomized(FORMS["a"](16, 4, 8, 4).double()).eval()
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    aggregated = sum(path(x) for path in block.paths)
    torch.testing.assert_close(block(x), torch.relu(block.bn3(aggregated) + x), **EXACT)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_aggregated_layers_are_a_wide_dense_block(stride: int, training: bool) -> None:
    """Fig. 4: 32 paths of width 4 over 64 channels are one block of width 128 (here 6 paths of 4)."""
    cardinality, path_width = 6, 4
    aggregated = AggregatedTwoLayer(16, 16, path_width, cardinality, stride=stride).double()
    wide = WideTwoLayer(16, 16, path_width * cardinality, stride=stride).double()
    _randomized(wide)
    aggregated.load_state_dict(split_paths(wide.state_dict(), cardinality, last="conv2"))
    for block in (aggregated, wide):
        block.train(training)
    x = torch.randn(3, 16, 6, 7, dtype=torch.float64)

    out, input_gradient, gradients = _run(aggregated, x)
    wide_out, wide_input_gradient, wide_gradients = _run(wide, x)

    torch.testing.assert_close(out, wide_out, **EXACT)
    torch.testing.assert_close(input_gradient, wide_input_gradient, **EXACT)
    joined = join_paths(gradients, last="conv2")
    assert joined.keys() == wide_gradients.keys()
    for name, gradient in joined.items():
        torch.testing.assert_close(gradient, wide_gradients[name], **EXACT)
    for name, tensor in join_paths(aggregated.state_dict(), last="conv2").items():
        torch.testing.assert_close(tensor, wide.state_dict()[name], **EXACT)


def test_wide_two_layer_block_is_torchvisions_basic_block() -> None:
    models = pytest.importorskip("torchvision").models
    theirs = models.resnet18().layer2[0].eval()
    ours = WideTwoLayer(64, 128, 128, stride=2).eval()
    ours.load_state_dict(_randomized(theirs).state_dict())
    x = torch.randn(1, 64, 9, 9)
    torch.testing.assert_close(ours(x), theirs(x))
