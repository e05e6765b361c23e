"""RoI pooling, in both forms, against torchvision's operators and against a slow loop that follows the papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torchvision

from detection.geometry.roi_pooling import RoIPooling, assign_levels
from detection.kernels.roi_align import roi_align
from detection.kernels.roi_max_pool import distinct_bins, pool_bins, roi_max_pool, spread
from detection.kernels.roi_pooling import pool_distinct_bins, pool_regions, pool_regions_on_cpu
from tests.detection.geometry.test_boxes import random_boxes

Pool = Callable[..., torch.Tensor]


@pytest.fixture(params=[pool_regions, pool_regions_on_cpu], ids=["plain", "CPU"])
def pool(request: pytest.FixtureRequest) -> Pool:
    """Each form of the pooling in turn."""
    return request.param


def max_pool_slowly(features: torch.Tensor, box: list[float], bins: int, stride: int) -> torch.Tensor:
    """Fast R-CNN's RoI max-pooling of one half-open box, as the Caffe layer does it: corners rounded to cells, the far
    one included."""
    channels, height, width = features.shape
    x0, y0, x1, y1 = (math.floor(side / stride + 0.5) for side in (box[0], box[1], box[2] - 1, box[3] - 1))
    region_width, region_height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    pooled = torch.zeros(channels, bins, bins, dtype=features.dtype)
    for row in range(bins):
        for column in range(bins):
            top = min(max(y0 + math.floor(row * region_height / bins), 0), height)
            bottom = min(max(y0 + math.ceil((row + 1) * region_height / bins), 0), height)
            left = min(max(x0 + math.floor(column * region_width / bins), 0), width)
            right = min(max(x0 + math.ceil((column + 1) * region_width / bins), 0), width)
            if bottom > top and right > left:
                pooled[:, row, column] = features[:, top:bottom, left:right].amax(dim=(1, 2))
    return pooled


def test_max_pooling_follows_the_paper(pool: Pool) -> None:
    features = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)).double()
    regions = random_boxes(2, 20, seed=3, extent=140.0).double()
    for learns in (False, True):
        pooled = pool(RoIPooling("max", 4, [16]), [features.requires_grad_(learns)], regions).view(2, 20, 3, 4, 4)
        for image in range(2):
            for region in range(20):
                expected = max_pool_slowly(features[image], regions[image, region].tolist(), 4, 16)
                torch.testing.assert_close(pooled[image, region], expected)


@pytest.mark.parametrize("bins", [3, 7, 14])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_max_pooling_and_its_gradient_are_torchvisions(dtype: torch.dtype, tied: bool, bins: int, pool: Pool) -> None:
    """The maxima to the bit, in boxes on halves of cells, too, where rounding decides, and beyond the map, where there
    is nothing to pool. The gradient also where cells tie, as after a ReLU: to the first of them."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 19, 24, generator=generator)
    features = (features.relu().mul(4).round() if tied else features).to(dtype).requires_grad_()
    halves = (random_boxes(2, 200, seed=5, extent=300.0) / 8).round() * 8 - 40
    boxes = torch.cat([halves, random_boxes(2, 200, seed=6, extent=400.0), odd_boxes()], dim=1).to(dtype).flatten(0, 1)
    image = torch.arange(2).repeat_interleave(len(boxes) // 2)
    found = roi_max_pool(features, image, boxes, bins, 1 / 16)
    expected = torchvision.ops.roi_pool(features, torch.cat([image[:, None].to(dtype), boxes], dim=1), bins, 1 / 16)
    assert torch.equal(found, expected)
    assert (expected == 0).any()
    weights = torch.randn(expected.shape, generator=generator).to(dtype)
    gradient, expected_gradient = (torch.autograd.grad((one * weights).sum(), features)[0] for one in (found, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-6 * expected_gradient.abs().max().item())


def test_max_pooling_looks_at_each_distinct_bin_once() -> None:
    """Regions of 2 × 2 bins of 2 × 2 cells: one, the same a bin further right, and the first on another image."""
    boxes, image = torch.tensor([[0.0, 0, 3, 3], [2.0, 0, 5, 3], [0.0, 0, 3, 3]]), torch.tensor([0, 0, 1])
    bins = distinct_bins((2, 4, 6), image, boxes, 2, 1.0)
    assert bins.sizes == [(2, 2, 10)]
    assert bins.first.tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 36, 38]
    assert bins.index.tolist() == [[[0, 1], [3, 4]], [[1, 2], [4, 5]], [[6, 7], [8, 9]]]
    pooled = pool_bins(torch.arange(48.0).view(2, 1, 4, 6), bins)
    assert pooled.flatten().tolist() == [7, 9, 11, 19, 21, 23, 31, 33, 43, 45]
    assert spread(pooled, bins.index)[1, 0].tolist() == [[9, 11], [21, 23]]


def odd_boxes() -> torch.Tensor:
    """Two images' regions: ordinary ones, and what a map's border, a point, a line and a far-away box bring."""
    ordinary = random_boxes(2, 20, seed=3, extent=140.0).double()
    whole, over, beyond, point = [0, 0, 192, 144], [-30, -30, 20, 20], [150, 100, 260, 200], [50, 50, 50, 50]
    line, far, left, corner = [0, 0, 192, 0.5], [300, 300, 400, 400], [-90, 10, -40, 60], [191, 143, 192, 144]
    odd = torch.tensor([whole, over, beyond, point, line, far, left, corner])
    return torch.cat([ordinary, odd.double().expand(2, -1, -1)], dim=1)


@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_align_and_its_gradient_are_torchvisions_in_float64(samples: int, pool: Pool) -> None:
    features = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    regions = odd_boxes()
    weights = torch.randn(regions.shape[1] * 2, 3, 7, 7, generator=torch.Generator().manual_seed(1)).double()
    pooled = pool(RoIPooling("align", 7, [16], sampling_ratio=samples), [features], regions)
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), features)
    expected = torchvision.ops.roi_align(features, list(regions), 7, 1 / 16, samples, aligned=True)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), features)
    torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-12)


def test_the_separable_gradient_is_that_of_finite_differences() -> None:
    features = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    image, boxes = torch.tensor([0, 0]), torch.tensor([[3.0, 5, 60, 50], [10.0, 0, 90, 20]]).double()
    assert torch.autograd.gradcheck(lambda f: roi_align(f, image, boxes, 3, 1 / 16, 2), (features,))


def test_align_of_a_plane_gives_the_planes_value_at_the_bin_centres(pool: Pool) -> None:
    """Bilinear sampling reproduces a linear function exactly, so the answer is known without any pooling code."""
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    plane = (3 * columns + 5 * rows)[None, None]
    box = torch.tensor([[[40.0, 48.0, 200.0, 160.0]]])
    pooled = pool(RoIPooling("align", 4, [8]), [plane], box)[0, 0]
    x = (40 + 160 * (torch.arange(4.0) + 0.5) / 4) / 8 - 0.5  # cell centres are at half cells
    y = (48 + 112 * (torch.arange(4.0) + 0.5) / 4) / 8 - 0.5
    torch.testing.assert_close(pooled, 3 * x[None, :] + 5 * y[:, None])


def test_the_result_can_be_changed_in_place(pool: Pool) -> None:
    features = torch.randn(1, 3, 9, 12, requires_grad=True)
    for method in ("align", "max"):
        pooled = pool(RoIPooling(method, 7, [16]), [features], odd_boxes()[:1].float())  # type: ignore[arg-type]
        pooled.relu_().sum().backward()


def test_distinct_bins_of_several_levels_are_told_apart() -> None:
    maps = [torch.randn(2, 3, 36, 48, generator=torch.Generator().manual_seed(0))]
    maps.append(torch.randn(2, 3, 18, 24, generator=torch.Generator().manual_seed(1)))
    nowhere = torch.full((2, 1, 4), torch.nan)
    regions = torch.cat([odd_boxes().float(), nowhere], dim=1)
    pooling = RoIPooling("max", 7, [4, 8])
    assert 0 < assign_levels(odd_boxes().flatten(0, 1), [4, 8]).float().mean() < 1  # both have some
    values, index = pool_distinct_bins(pooling, maps, regions)
    assert torch.equal(spread(values, index), pool_regions(pooling, maps, regions))
    assert len(values) < index.numel()


@pytest.mark.parametrize("method", ["align", "max"])
def test_several_levels_pool_each_region_from_its_own(method: str, pool: Pool) -> None:
    maps = [torch.full((1, 2, 64, 64), 1.0), torch.full((1, 2, 32, 32), 2.0), torch.full((1, 2, 16, 16), 3.0)]
    regions = torch.tensor([[[0.0, 0, 30, 30], [0.0, 0, 112, 112], [0.0, 0, 250, 250], [0.0, 0, 60, 60]]])
    pooled = pool(RoIPooling(method, 2, [4, 8, 16]), maps, regions)  # type: ignore[arg-type]
    assert pooled[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize(("method", "samples"), [("align", 2), ("align", 0), ("max", 2)])
def test_every_second_bin_alone_is_what_it_is_among_all(method: str, samples: int, step: int, pool: Pool) -> None:
    maps = [torch.randn(2, 3, 18, 24, generator=torch.Generator().manual_seed(0)).double().requires_grad_()]
    maps.append(torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(1)).double().requires_grad_())
    for levels in (maps[1:], maps):
        pooling = RoIPooling(method, 7, [8, 16][-len(levels) :], samples)  # type: ignore[arg-type]
        found, expected = (
            pool(pooling, levels, odd_boxes(), step),
            pool(pooling, levels, odd_boxes())[:, :, ::step, ::step],
        )
        torch.testing.assert_close(found, expected)
        weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).double()
        for own, other in zip(
            torch.autograd.grad((found * weights).sum(), levels),
            torch.autograd.grad((expected * weights).sum(), levels),
            strict=True,
        ):
            torch.testing.assert_close(own, other)


@pytest.mark.parametrize("method", ["align", "max"])
def test_corners_keep_their_place_in_half_precision(method: str, pool: Pool) -> None:
    """A corner near pixel 1000 rounded to bf16 would move by up to 4 pixels."""
    ramp = (torch.arange(64.0) / 64).expand(1, 1, 4, 64)
    # The two are rounded to other cells in bf16, RoIAlign's at once and max-pooling's, to whole ones, further left.
    box = torch.tensor([[[901.0, 0, 1019.0, 64]]]) if method == "align" else torch.tensor([[[870.0, 0, 970.0, 64]]])
    pooling = RoIPooling(method, 2, [16])  # type: ignore[arg-type]
    torch.testing.assert_close(
        pool(pooling, [ramp.bfloat16()], box).float(), pool(pooling, [ramp], box), atol=0.004, rtol=0
    )


@pytest.mark.parametrize("method", ["align", "max"])
def test_no_regions_and_degenerate_regions(method: str, pool: Pool) -> None:
    pooling = RoIPooling(method, 7, [16])  # type: ignore[arg-type]
    features = torch.randn(1, 3, 5, 5)
    assert pool(pooling, [features], torch.zeros(1, 0, 4)).shape == (0, 3, 7, 7)
    odd = torch.tensor([[[0.0, 0, 0, 0], [79.0, 79.0, 80.0, 80.0], [0.0, 0, 80.0, 0.5]]])
    assert pool(pooling, [features], odd).isfinite().all()
