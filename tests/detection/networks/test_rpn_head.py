"""The RPN's head at some anchors alone against the whole map's answers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from detection import config as settings
from detection.kernels import anchor_head
from detection.kernels.choice import CPU
from detection.networks.rpn_head import RPNHead
from detection.training.placement import placed
from tests.detection.tiny_networks import batch, tiny_rpn

SHAPES = [(7, 5), (4, 3)]


def head_and_maps(levels: int) -> tuple[RPNHead, list[torch.Tensor]]:
    torch.manual_seed(0)
    head = RPNHead(6, 5, 3).double()
    head.kernels = CPU
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head, [torch.randn(2, 6, *shape).double().requires_grad_() for shape in SHAPES[:levels]]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("levels", [1, 2])
def test_some_anchors_alone_get_the_answers_and_gradients_of_the_whole_map(
    levels: int, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, maps = head_and_maps(levels)
    if channels_last:
        head = head.to(memory_format=torch.channels_last)
    logits, targets = head(maps)
    number = logits.shape[1]
    index = torch.stack([torch.arange(number), torch.arange(number).flip(0)])  # corners, borders and all
    expected = logits.gather(1, index), targets.gather(1, index[..., None].expand(-1, -1, 4))
    monkeypatch.setattr(anchor_head, "_SPARSE", 0)
    with monkeypatch.context() as patched:
        patched.setattr(RPNHead, "forward", None)  # `at` does without
        found = head.at(maps, index)
    leaves = [*maps, *head.parameters()]
    weights = [torch.randn(one.shape).double() for one in expected]
    gradients, expected_gradients = (
        torch.autograd.grad(sum((w * r).sum() for w, r in zip(weights, result, strict=True)), leaves)
        for result in (found, expected)
    )
    for own, other in zip((*found, *gradients), (*expected, *expected_gradients), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


def test_many_anchors_are_taken_from_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    head, maps = head_and_maps(1)
    expected, _ = head(maps)
    monkeypatch.setattr(anchor_head, "_windows", None)
    index = torch.arange(60).expand(2, -1)
    torch.testing.assert_close(head.at(maps, index)[0], expected[:, :60])


def test_an_answer_by_hand() -> None:
    """One position of one map, its window read off with slices."""
    head, (features,) = head_and_maps(1)
    row, column, kind = 3, 2, 1
    window = features[1, :, row - 1 : row + 2, column - 1 : column + 2]
    hidden = functional.relu((head.conv.weight * window).sum(dim=(1, 2, 3)) + head.conv.bias)
    index = torch.tensor([[0], [(row * 5 + column) * 3 + kind]])
    logits, targets = head.at([features], index)
    torch.testing.assert_close(
        logits[1, 0], head.objectness.weight[kind, :, 0, 0] @ hidden + head.objectness.bias[kind]
    )
    own = slice(4 * kind, 4 * kind + 4)
    torch.testing.assert_close(targets[1, 0], head.box.weight[own, :, 0, 0] @ hidden + head.box.bias[own])


@pytest.mark.parametrize("channels_last", [False, True])
def test_on_a_cpu_the_head_keeps_torchs_memory_order_through_training(channels_last: bool) -> None:
    runtime = settings.Runtime(channels_last=channels_last)
    network = tiny_rpn()
    network.head.cpu_memory_format = torch.contiguous_format  # as that of a wide head
    network = placed(network, runtime, torch.device("cpu"))
    assert network.backbone.layer2[0].conv2.weight.is_contiguous() != channels_last
    sum(network(batch([[[10, 10, 60, 50]]], [[1]])).values()).sum().backward()
    for layer in (network.head.conv, network.head.objectness, network.head.box):
        for tensor in (layer.weight, layer.weight.grad):
            assert tensor.stride() == torch.empty(tensor.shape).stride()
