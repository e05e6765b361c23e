"""1×1 convolutions go to oneDNN with one thread too, and compute the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from backbones import create_classifier, onednn_pointwise_convolutions, pointwise
from backbones.pointwise import PointwiseConvolution, pointwise_conv2d

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _operators(network: nn.Module, images: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        network(images).sum().backward()
    return {event.key for event in profiler.key_averages()}


@needs_onednn
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("batch", [1, 3])
def test_no_convolution_of_a_network_goes_to_another_kernel(batch: int) -> None:
    torch.manual_seed(0)
    network = create_classifier("resnext14_8x16d_small", 5)
    images = torch.randn(batch, 3, 64, 64)
    assert "aten::_slow_conv2d_forward" in _operators(network, images), "PyTorch has changed: the module is not needed"
    operators = _operators(onednn_pointwise_convolutions(network), images)
    assert "aten::mkldnn_convolution" in operators
    # of one image, maps of few values stay with PyTorch's own kernel
    assert batch == 1 or not [name for name in operators if "slow_conv" in name]
    assert "aten::slow_conv_dilated2d" not in operators


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_outputs_and_gradients_are_those_of_float64(memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(24, 40, 1).to(memory_format=memory_format)
    exact = nn.Conv2d(24, 40, 1).double()
    exact.load_state_dict(convolution.state_dict())
    images = torch.randn(2, 24, 9, 7, generator=generator).to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(2, 40, 9, 7, generator=generator)
    onednn_pointwise_convolutions(convolution)
    output = convolution(images)
    expected = exact(images.double())
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    given = torch.autograd.grad((output * weight).sum(), [images, *convolution.parameters()])
    wanted = torch.autograd.grad((expected * weight).sum(), [images, *exact.parameters()])
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-5)


def test_only_pointwise_convolutions_of_stride_one_change() -> None:
    network = create_classifier("resnext14_8x16d_small", 5)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    onednn_pointwise_convolutions(network)
    changed = {name for name, module in network.named_modules() if type(module) is PointwiseConvolution}
    assert {"layer1.0.conv1", "layer1.0.conv3", "layer1.0.downsample.0", "layer4.0.conv3"} <= changed
    assert not {"conv1", "layer1.0.conv2", "layer2.0.downsample.0"} & changed
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "dtype", "available", "expected"),
    [
        ((1, 32, 40, 40), torch.float32, True, 2),
        ((2, 8, 2, 2), torch.float32, True, 2),
        ((1, 8, 2, 2), torch.float32, True, 1),
        ((1, 32, 40, 40), torch.float64, True, 1),
        ((1, 32, 40, 40), torch.float32, False, 1),
    ],
)
def test_dilation_only_where_it_leads_to_onednn(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype, available: bool, expected: int
) -> None:
    given = []
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    monkeypatch.setattr(pointwise.functional, "conv2d", lambda *_, dilation: given.append(dilation))
    pointwise_conv2d(torch.zeros(shape, dtype=dtype), torch.zeros(4, shape[1], 1, 1, dtype=dtype))
    assert given == [expected]
