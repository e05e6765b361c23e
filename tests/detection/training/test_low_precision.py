"""Networks whose weights were converted once: what stays float32, and that they find nearly the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from backbones import FeaturePyramid, fold_batch_norm
from detection.geometry.roi_pooling import RoIPooling
from detection.kernels.choice import CPU, PLAIN, use_kernels
from detection.networks.box_heads import ConvolutionBoxHead, TwoLayerBoxHead
from detection.networks.fast_rcnn import FastRCNN
from detection.training.low_precision import convert
from tests.detection.tiny_networks import tiny_backbone, tiny_fast_rcnn, tiny_rpn

SIZES = torch.tensor([[96, 128]])
REGIONS = torch.tensor([[[3.0, 5.0, 60.0, 70.0], [40.0, 20.0, 127.0, 90.0], [10.0, 10.0, 30.0, 28.0]]])


def image() -> torch.Tensor:
    return torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def converted(network: nn.Module) -> nn.Module:
    low = copy.deepcopy(network)
    convert(low, torch.bfloat16)
    return low


def test_an_rpn_keeps_its_output_layers_in_float32() -> None:
    exact = fold_batch_norm(tiny_rpn())
    low = converted(exact)
    kept = {name for name, parameter in low.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {f"head.{layer}.{kind}" for layer in ("objectness", "box") for kind in ("weight", "bias")}
    first, second = (one.predict(image(), SIZES) for one in (exact, low))  # type: ignore[operator]
    assert second.logits.dtype == torch.float32
    assert second.maps[0].dtype == torch.bfloat16
    assert not torch.equal(first.logits, second.logits)
    torch.testing.assert_close(second.logits, first.logits, rtol=0.05, atol=0.05)
    assert len(second.logits.unique()) > 0.95 * second.logits.numel(), "not rounded to bfloat16 themselves"


def pyramid_network(head: type[nn.Module]) -> FastRCNN:
    torch.manual_seed(0)
    trunk = FeaturePyramid(tiny_backbone(outputs=("c2", "c3", "c4", "c5")), 32, norm="group")
    pooling = RoIPooling("align", 5, tuple(trunk.strides.values()), 2)
    return FastRCNN(trunk, head(pooling, 32), classes=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernels", [CPU, PLAIN], ids=["cpu", "plain"])
@pytest.mark.parametrize("kind", ["align", "max", "two layers", "convolutions"])
def test_a_fast_rcnn_scores_regions_nearly_alike(kind: str, kernels: object) -> None:
    heads = {"two layers": TwoLayerBoxHead, "convolutions": ConvolutionBoxHead}
    network = pyramid_network(heads[kind]) if kind in heads else tiny_fast_rcnn(pooling=kind)
    exact = fold_batch_norm(network)
    use_kernels(exact, kernels)  # type: ignore[arg-type]
    low = converted(exact)
    first, second = (one.score(one.feature_maps(image(), SIZES), SIZES, REGIONS) for one in (exact, low))  # type: ignore[operator]
    assert second.probabilities.dtype == second.targets.dtype == torch.float32
    torch.testing.assert_close(second.probabilities, first.probabilities, rtol=0.05, atol=0.05)
    assert not torch.equal(first.targets, second.targets)


def test_a_converted_network_is_copied_with_its_conversions() -> None:
    low = converted(fold_batch_norm(tiny_rpn()))
    copied = copy.deepcopy(low)
    assert torch.equal(low.predict(image(), SIZES).logits, copied.predict(image(), SIZES).logits)  # type: ignore[operator]
