"""The layer, its implementations and the choice among them; on a GPU where there is one."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import backbones.grouped.choice as choice
from backbones import create_classifier, fold_batch_norm
from backbones.grouped import GroupedConvolution, fastest_grouped_convolutions
from backbones.grouped.convolution import grouped_conv2d
from backbones.grouped.implementations import (
    LIBRARY,
    BlockDiagonal,
    Implementation,
    block_diagonal_candidates,
    triton_candidates,
)
from backbones.grouped.shapes import Geometry

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: the layer was not tried on one")


@pytest.fixture(autouse=True)
def nothing_measured() -> Iterator[None]:
    choice._chosen.clear()
    yield
    choice._chosen.clear()


def tensors(geometry: Geometry, channels: int, size: tuple[int, int] = (9, 12), **kind: object) -> list[Tensor]:
    """x, weight and bias, random."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, channels, *size), (channels, channels // geometry.groups, 3, 3), (channels,))
    return [torch.randn(size, generator=generator).to(**kind).requires_grad_() for size in sizes]  # type: ignore[call-overload]


def results(y: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """y and the gradients of a weighted sum of it."""
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


# Implementations


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("channels", "groups", "width"), [(32, 8, 16), (32, 8, 32), (48, 12, 16), (64, 4, 32)])
def test_merged_groups_are_the_same_function(
    channels: int, groups: int, width: int, stride: int, dilation: int
) -> None:
    geometry = Geometry(stride, dilation, dilation, groups)
    x, weight, bias = tensors(geometry, channels, dtype=torch.float64)
    y = torch.nn.functional.conv2d(x, weight, bias, *geometry)
    gradient = torch.randn_like(y)
    of_x, of_weight = torch.autograd.grad(y, (x, weight), gradient)
    by = BlockDiagonal(width)
    torch.testing.assert_close(by.forward(x, weight, bias, geometry), y)
    torch.testing.assert_close(by.input_gradient(gradient, weight, tuple(x.shape), geometry), of_x)
    torch.testing.assert_close(by.weight_gradient(gradient, x, weight, geometry), of_weight)


def test_what_there_is_to_choose_from() -> None:
    assert [one.name for one in block_diagonal_candidates(128, 32)] == ["groups of 16", "groups of 32", "groups of 64"]
    assert [one.name for one in block_diagonal_candidates(1024, 32)] == ["groups of 64"]
    assert block_diagonal_candidates(40 * 3, 3) == []  # no multiple of 40
    assert triton_candidates(128, 32, torch.float64) == []
    assert triton_candidates(2048, 8, torch.float32) == []  # 256 channels a group


# The choice


class Candidate:
    """The library's result, `seconds` late, plus `error`."""

    def __init__(self, name: str, *, seconds: float = 0.0, error: float | Exception = 0.0) -> None:
        self.name, self.seconds, self.error = name, seconds, error
        self.calls = 0

    def compute(self, value: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(self.seconds)
        if isinstance(self.error, Exception):
            raise self.error
        return value + self.error


VALUE = torch.ones(3)


def chosen(*candidates: Candidate, library: Candidate, key: str = "case", value: Tensor = VALUE) -> str:
    def compute(by: Implementation) -> Tensor:
        return (library if by is LIBRARY else by).compute(value)  # type: ignore[attr-defined]

    return choice.choose_fastest(key, lambda: candidates, compute).name  # type: ignore[arg-type, return-value]


def test_the_fastest_is_taken_and_measured_once() -> None:
    library, slow, fast = Candidate("-", seconds=0.01), Candidate("slow", seconds=0.03), Candidate("fast")
    assert chosen(slow, fast, library=library) == "fast"
    calls = fast.calls
    assert chosen(slow, fast, library=library) == "fast"
    assert fast.calls == calls
    assert chosen(slow, library=library) == "fast"  # it is known
    assert chosen(slow, library=library, key="another case") == "library"


def test_what_is_wrong_or_does_not_run_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    library = Candidate("-", seconds=0.01)
    broken, wrong = Candidate("broken", error=RuntimeError("no such instruction")), Candidate("wrong", error=0.1)
    with caplog.at_level(logging.DEBUG):
        assert chosen(broken, wrong, library=library) == "library"
    assert "broken does not run here: no such instruction" in caplog.text
    assert "wrong differs from the library by 1.0e-01" in caplog.text


def test_numbers_that_are_not_finite_settle_nothing() -> None:
    library, fast = Candidate("-", seconds=0.01), Candidate("fast")
    assert chosen(fast, library=library, value=torch.tensor([1.0, torch.nan])) == "library"
    assert chosen(fast, library=library) == "fast"
    assert chosen(fast, library=library, key="zeros", value=torch.zeros(3)) == "fast"


def test_while_the_library_is_asked_for_nothing_else_is_taken() -> None:
    library, fast = Candidate("-", seconds=0.01), Candidate("fast")
    with choice.library_only():
        assert chosen(fast, library=library) == "library"
    assert chosen(fast, library=library) == "fast"


# The layer


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer's own path, which a CPU does not take otherwise."""
    monkeypatch.setattr("backbones.grouped.convolution._has_a_choice", lambda x, weight: True)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("autocast", [False, True])
def test_function_and_gradients_are_conv2d_s(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every direction by a merged convolution."""
    geometry = Geometry(2, 1, 1, 8)
    leaves = tensors(geometry, 32, dtype=torch.float32)
    monkeypatch.setattr(
        "backbones.grouped.convolution.choose_fastest", lambda key, candidates, compute: candidates()[0]
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = results(grouped_conv2d(*leaves, geometry), leaves)
        expected = results(torch.nn.functional.conv2d(*leaves, *geometry), leaves)
    assert [one.dtype for one in got] == [one.dtype for one in expected]
    for one, other in zip(got, expected, strict=True):
        tolerance = 3e-2 * other.abs().max().item() if autocast else 1e-4
        torch.testing.assert_close(one, other, atol=tolerance, rtol=1e-4)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_gradients_in_double_precision() -> None:
    geometry = Geometry(2, 1, 1, 2)
    generator = torch.Generator().manual_seed(0)
    sizes = ((1, 4, 5, 4), (4, 2, 3, 3), (4,))
    leaves = [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]
    assert torch.autograd.gradcheck(lambda *inputs: grouped_conv2d(*inputs, geometry), leaves)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_only_what_is_wanted_is_differentiated() -> None:
    geometry = Geometry(1, 1, 1, 8)
    x, weight, bias = (tensor.detach() for tensor in tensors(geometry, 32))
    y = grouped_conv2d(x, weight.requires_grad_(), bias, geometry)
    (of_weight,) = torch.autograd.grad(y.sum(), weight)
    (expected,) = torch.autograd.grad(torch.nn.functional.conv2d(x, weight, bias, *geometry).sum(), weight)
    torch.testing.assert_close(of_weight, expected, atol=1e-4, rtol=1e-4)
    assert not grouped_conv2d(x, weight.detach(), bias, geometry).requires_grad


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_gradients_keep_the_memory_order_of_the_maps(order: torch.memory_format) -> None:
    geometry = Geometry(1, 1, 1, 8)
    x, weight, bias = (tensor.detach() for tensor in tensors(geometry, 32))
    x, weight = (tensor.contiguous(memory_format=order).requires_grad_() for tensor in (x, weight))
    y = grouped_conv2d(x, weight, bias, geometry)
    of_x, _ = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert of_x.is_contiguous(memory_format=order)


def test_what_is_not_for_choice_is_conv2d_s() -> None:
    geometry = Geometry(2, 1, 1, 8)
    _, weight, bias = tensors(geometry, 32)
    for x in (torch.empty(0, 32, 9, 12), torch.randn(32, 9, 12), torch.randn(1, 32, 9, 12)):
        expected = torch.nn.functional.conv2d(x, weight, bias, *geometry)
        assert torch.equal(grouped_conv2d(x, weight, bias, geometry), expected)
    for wrong in (torch.randn(1, 64, 9, 12), torch.randn(1, 32, 9, 12).double()):
        with pytest.raises(RuntimeError):
            grouped_conv2d(wrong, weight, bias, geometry)


def test_a_converted_network_can_be_traced() -> None:
    network = fastest_grouped_convolutions(torchvision.models.resnext50_32x4d()).eval()
    extractor = create_feature_extractor(network, ["layer3"])
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert extractor(image)["layer3"].shape == (1, 1024, 4, 4)


def test_networks_of_any_library_keep_everything_but_their_operator() -> None:
    for network in (create_classifier("resnext50_32x4d"), torchvision.models.resnext50_32x4d()):
        plain = copy.deepcopy(network)
        assert fastest_grouped_convolutions(network) is network
        layers = [module for module in network.modules() if isinstance(module, GroupedConvolution)]
        assert len(layers) == 16  # one a block
        assert network.state_dict().keys() == plain.state_dict().keys()
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(network.eval()(image), plain.eval()(image))
            folded = fold_batch_norm(network)
            assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
            torch.testing.assert_close(folded(image), plain(image), atol=1e-4, rtol=1e-3)


def test_frozen_normalisation_is_folded_into_it_as_into_any_convolution() -> None:
    network = create_classifier("resnext50_32x4d", norm="frozen", num_classes=2)
    image = torch.randn(1, 3, 64, 64)
    expected = network(image)
    assert torch.equal(fastest_grouped_convolutions(network)(image), expected)


def test_what_is_no_grouped_3x3_is_left_alone() -> None:
    others: list[nn.Module] = [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 8, 1, groups=4),
        nn.Conv2d(8, 16, 3, groups=4),
        nn.Conv2d(8, 8, 3, stride=(1, 2), groups=4),
        nn.Conv2d(8, 8, 3, padding="same", groups=4),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, padding_mode="reflect"),
    ]
    for module in nn.Sequential(*others).modules():
        assert type(fastest_grouped_convolutions(module)) is not GroupedConvolution


@GPU
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (256, 32), (1024, 32), (80, 2)])
def test_every_implementation_on_a_gpu(
    channels: int, groups: int, stride: int, dtype: torch.dtype, order: torch.memory_format
) -> None:
    geometry = Geometry(stride, 1, 1, groups)
    x, weight, bias = (tensor.detach().cuda().to(dtype) for tensor in tensors(geometry, channels, (90, 120)))
    x, weight = x.contiguous(memory_format=order), weight.contiguous(memory_format=order)
    exact = [tensor.double().requires_grad_() for tensor in (x, weight)]
    y = torch.nn.functional.conv2d(*exact, bias.double(), *geometry)
    gradient = torch.randn_like(y).to(dtype).contiguous(memory_format=order)
    of_x, of_weight = torch.autograd.grad(y, exact, gradient.double())
    candidates = block_diagonal_candidates(channels, groups) + triton_candidates(channels, groups, dtype)
    assert any(one.name.startswith("Triton") for one in candidates)
    for by in candidates:
        for got, expected in (
            (by.forward(x, weight, bias, geometry), y),
            (by.input_gradient(gradient, weight, tuple(x.shape), geometry), of_x),
            (by.weight_gradient(gradient, x, weight, geometry), of_weight),
        ):
            assert got.dtype == dtype
            difference = (got.double() - expected).abs().max() / expected.abs().max()
            assert difference < (2e-2 if dtype == torch.bfloat16 else 2e-3), by.name


@GPU
@pytest.mark.parametrize("autocast", [False, True])
def test_a_network_on_a_gpu_computes_as_before(autocast: bool) -> None:
    """Forward and backward, channels last, with each direction's choice."""
    torch.manual_seed(0)
    plain = create_classifier("resnext50_32x4d", norm="frozen", num_classes=3).cuda()
    plain = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = fastest_grouped_convolutions(copy.deepcopy(plain))
    image = torch.randn(2, 3, 96, 128, device="cuda").contiguous(memory_format=torch.channels_last)
    found = []
    for one in (network, plain):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            y = one(image).float()
        found.append(results(y, [one.layer1[0].conv2.weight, one.layer4[2].conv2.weight]))
    for got, expected in zip(*found, strict=True):
        assert (got - expected).norm() < (0.2 if autocast else 2e-2) * expected.norm()
    assert {key[0] for key in choice._chosen} == {"forward", "input gradient", "weight gradient"}  # type: ignore[index]
