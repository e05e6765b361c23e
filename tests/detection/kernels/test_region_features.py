"""Vectors of regions against the plain order of torchvision's RoIAlign and conv5, in whichever order they are made."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import create_c4, fold_batch_norm
from detection.geometry.roi_pooling import Method, RoIPooling
from detection.kernels import region_features as module
from detection.kernels.region_features import (
    region_features,
    region_features_convolution_first,
    region_features_in_parts,
    region_features_reordered,
)
from detection.kernels.roi_pooling import pool_regions
from tests.detection.geometry.test_boxes import random_boxes
from tests.detection.kernels.test_roi_pooling import odd_boxes
from tests.detection.tiny_networks import TINY


def conv5_of(norm: str = "frozen", **structure: Any) -> nn.Module:
    """A small conv5 in float64 whose normalisation does something."""
    torch.manual_seed(0)
    _, conv5 = create_c4("resnext50_32x4d", norm=norm, **TINY | {"depths": (1, 1, 1, 2)} | structure)
    for name, values in conv5.state_dict().items():
        if ("bn" in name or "downsample.1" in name) and values.is_floating_point():
            values.uniform_(0.5, 1.5)
    return conv5.double()


def maps_of(channels: int, height: int = 9, width: int = 12, images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, channels, height, width, generator=generator, dtype=torch.float64).requires_grad_()


def plainly(conv5: nn.Module, features: torch.Tensor, regions: torch.Tensor, bins: int, method: str) -> torch.Tensor:
    """By torchvision's operators. Its max-pooling takes the far corner as the last pixel inside."""
    if method == "align":
        pooled = torchvision.ops.roi_align(features, list(regions), bins, 1 / 16, 2, aligned=True)
    else:
        pooled = torchvision.ops.roi_pool(features, list(regions - torch.tensor([0.0, 0, 1, 1])), bins, 1 / 16)
    return conv5(pooled).mean(dim=(2, 3))


@pytest.mark.parametrize("wide", [1, 1 << 20])
@pytest.mark.parametrize("method", ["align", "max"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_the_order_of_exported_files_gives_the_same_vectors(
    norm: str, method: Method, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WIDE", wide)
    conv5, regions = conv5_of(norm).eval(), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as plain:
        expected = plainly(conv5, features, regions, 7, method)
    with FlopCounterMode(display=False) as counter:
        found = region_features_convolution_first(RoIPooling(method, 7, [16], 2), conv5, [features], regions)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    reordered = (norm, method, wide) == ("frozen", "align", 1)
    assert (counter.get_total_flops() != plain.get_total_flops()) == reordered


@pytest.fixture
def reordered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The orders other than the plain one that were taken, by the pooling that allows them."""
    calls: list[str] = []

    def noting(method: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: calls.append(method) or original(*args)

    for method, name in (("align", "_convolutions_first"), ("max", "_distinct_bins_once")):
        monkeypatch.setattr(module, name, noting(method, getattr(module, name)))
    return calls


@pytest.mark.parametrize("method", ["align", "max"])
@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize("structure", [{}, {"output_stride": 16}], ids=["stride 2", "dilated"])
def test_another_order_gives_the_same_vectors_and_gradients(
    structure: dict[str, Any], bins: int, method: Method, reordered: list[str]
) -> None:
    """Also for bins beyond the map's border, where pooling gives zero, and for regions without area."""
    conv5, regions = conv5_of(**structure), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    leaves = [features, *conv5.parameters()]
    found = region_features_reordered(RoIPooling(method, bins, [16], 2), conv5, [features], regions)
    expected = plainly(conv5, features, regions, bins, method)
    assert reordered == [method]
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).double()
    gradients, expected_gradients = (torch.autograd.grad((one * weights).sum(), leaves) for one in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for own, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10 * other.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("method", ["align", "max"])
def test_a_folded_conv5_in_batches_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, method: Method, reordered: list[str]
) -> None:
    conv5, regions = conv5_of().eval(), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_BATCH", 10)
    found = region_features_reordered(RoIPooling(method, 7, [16], 2), fold_batch_norm(conv5), [features], regions)
    assert set(reordered) == {method}
    torch.testing.assert_close(found, plainly(conv5, features, regions, 7, method), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["align", "max"])
def test_weights_in_half_precision(method: Method, reordered: list[str]) -> None:
    conv5, regions = conv5_of(), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    expected = plainly(conv5, features, regions, 7, method)
    found = region_features_reordered(RoIPooling(method, 7, [16], 2), conv5.bfloat16(), [features.bfloat16()], regions)
    assert reordered == [method]
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("pooling", "norm", "structure", "regions"),
    [
        (RoIPooling("max", 7, [16]), "batch", {}, 20),
        (RoIPooling("max", 7, [16]), "frozen", {"residual": False}, 20),
        (RoIPooling("align", 7, [16], 0), "frozen", {}, 20),
        (RoIPooling("align", 7, [16], 2), "batch", {}, 20),
        (RoIPooling("align", 7, [16], 2), "group", {}, 20),
        (RoIPooling("align", 7, [16], 2), "frozen", {"residual": False}, 20),
        (RoIPooling("align", 7, [16], 2), "frozen", {}, 1),
    ],
    ids=[
        "max-pooling, batch statistics",
        "max-pooling, no shortcut",
        "sampling ratio 0",
        "batch statistics",
        "group norm",
        "no shortcut",
        "few regions",
    ],
)
def test_the_plain_order_where_the_other_is_not_the_same_or_does_not_pay(
    pooling: RoIPooling, norm: str, structure: dict[str, Any], regions: int, reordered: list[str]
) -> None:
    conv5 = conv5_of(norm, **structure)
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    own = odd_boxes()[:, :regions]
    found = region_features_reordered(pooling, conv5, [features], own)
    assert not reordered
    torch.testing.assert_close(found, conv5(pool_regions(pooling, [features], own)).mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["align", "max"])
def test_the_first_convolutions_see_few_positions(method: Method) -> None:
    """Of 100 overlapping regions, which have 19,600 bins an image."""
    conv5, regions = conv5_of(), random_boxes(2, 100, seed=3, extent=140.0)
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    seen = FlopCounterMode(display=False)
    with seen, torch.no_grad():
        region_features_reordered(RoIPooling(method, 14, [16], 2), conv5.float(), [features.float()], regions)
    plain = FlopCounterMode(display=False)
    with plain, torch.no_grad():
        conv5(torch.empty(200, features.shape[1], 14, 14))
    block = conv5[0]  # type: ignore[index]
    opening = 2 * 200 * features.shape[1] * (14**2 * block.group_width + 7**2 * block.out_channels)
    saved = plain.get_total_flops() - seen.get_total_flops()
    assert saved > 0.8 * opening


@torch.no_grad()
@pytest.mark.parametrize("method", ["align", "max"])
def test_no_more_than_one_part_of_conv5s_maps_is_kept_at_inference(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    conv5, regions = conv5_of().eval(), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_BATCH", 10)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = []

    def note(block: nn.Module, given: Any, result: torch.Tensor) -> None:
        alive.append(weakref.ref(result))
        most.append(sum(one() is not None for one in alive))

    list(conv5.children())[-1].register_forward_hook(note)
    region_features_reordered(RoIPooling(method, 7, [16], 2), conv5, [features], regions)
    assert len(most) > 5
    assert max(most) == 1


@pytest.mark.parametrize("method", ["align", "max"])
def test_no_regions(method: Method) -> None:
    conv5 = conv5_of().eval()
    features, pooling = maps_of(conv5.in_channels), RoIPooling(method, 7, (16,), 2)  # type: ignore[arg-type]
    nothing = torch.zeros(2, 0, 4)
    assert region_features_reordered(pooling, conv5, [features], nothing).shape == (0, conv5.out_channels)
    with torch.no_grad():
        assert region_features_reordered(pooling, conv5, [features], nothing).shape == (0, conv5.out_channels)


@pytest.mark.parametrize("method", ["align", "max"])
@pytest.mark.parametrize("form", [region_features, region_features_in_parts])
def test_the_plain_form_is_torchvisions(form: Callable[..., torch.Tensor], method: Method) -> None:
    conv5, regions = conv5_of(), odd_boxes()
    features = maps_of(conv5.in_channels)  # type: ignore[arg-type]
    found = form(RoIPooling(method, 7, (16,), 2), conv5, [features], regions)
    torch.testing.assert_close(found, plainly(conv5, features, regions, 7, method), rtol=1e-10, atol=1e-10)


def test_a_gpu_pools_no_more_at_once_than_its_kernels_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    features, regions = (torch.empty(size, device="meta") for size in ((2, 8, 9, 12), (2, 30, 4)))
    conv5 = nn.Sequential(nn.Conv2d(8, 5, 1)).to("meta").eval()
    pooled: list[int] = []
    conv5.register_forward_pre_hook(lambda module, given: pooled.append(given[0].numel()))
    monkeypatch.setattr(module, "_MOST_POOLED", 20 * 8 * 4 * 4)
    with torch.no_grad():
        assert region_features_in_parts(RoIPooling("align", 4, (16,)), conv5, [features], regions).shape == (60, 5)
    assert pooled == [20 * 8 * 4 * 4] * 3
