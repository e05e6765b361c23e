"""The feature pyramid against torchvision's, for images of any size; it computes no level that it is not asked for."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from backbones import FeaturePyramid, create_backbone
from backbones.common.errors import UserError

TINY = {"depths": (1, 1, 1, 1), "cardinality": 2, "base_width": 16, "planes": 8, "stem_width": 8}
LEVELS = ("c2", "c3", "c4", "c5")


def pyramid(**settings: object) -> FeaturePyramid:
    torch.manual_seed(0)
    backbone = create_backbone("resnext50_32x4d", None, LEVELS, norm="frozen", **TINY)
    return FeaturePyramid(backbone, 24, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(128, 160), (97, 131), (33, 64), (20, 300), (1, 1)])
def test_its_maps_are_torchvisions(size: tuple[int, int]) -> None:
    ours = pyramid(outputs=("p2", "p3", "p4", "p5", "p6"))
    theirs = FeaturePyramidNetwork(list(ours.backbone.channels.values()), 24, LastLevelMaxPool())
    for position, level in enumerate(("p2", "p3", "p4", "p5")):
        theirs.inner_blocks[position][0].load_state_dict(ours.lateral[level].state_dict())
        theirs.layer_blocks[position][0].load_state_dict(ours.smooth[level].state_dict())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        found = ours(images)
        expected = theirs(dict(ours.backbone(images)))
    assert list(found) == list(ours.channels) == list(ours.strides) == ["p2", "p3", "p4", "p5", "p6"]
    for own, other in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-5)
    for features, stride in zip(found.values(), ours.strides.values(), strict=True):
        assert features.shape == (2, 24, -(-size[0] // stride), -(-size[1] // stride))


def test_gradients_are_torchvisions() -> None:
    ours = pyramid()
    theirs = FeaturePyramidNetwork(list(ours.backbone.channels.values()), 24)
    for position, level in enumerate(ours.channels):
        theirs.inner_blocks[position][0].load_state_dict(ours.lateral[level].state_dict())
        theirs.layer_blocks[position][0].load_state_dict(ours.smooth[level].state_dict())
    images = torch.randn(1, 3, 64, 96)
    sum(m.square().sum() for m in ours(images).values()).backward()  # type: ignore[union-attr]
    sum(m.square().sum() for m in theirs(dict(ours.backbone(images))).values()).backward()  # type: ignore[union-attr]
    for position, level in enumerate(ours.channels):
        own, other = ours.lateral[level].weight.grad, theirs.inner_blocks[position][0].weight.grad
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_a_level_that_is_not_asked_for_has_no_weights() -> None:
    assert list(pyramid(outputs=("p3", "p5")).smooth) == ["p3", "p5"]
    assert list(pyramid(outputs=("p4", "p6")).smooth) == ["p4", "p5"]  # p6 is made of p5
    assert list(pyramid(outputs=("p4", "p6"))(torch.zeros(1, 3, 64, 64))) == ["p4", "p6"]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_every_weight_learns(norm: str) -> None:
    network = pyramid(norm=norm).train()
    sum(m.square().sum() for m in network(torch.randn(2, 3, 64, 64)).values()).backward()  # type: ignore[union-attr]
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_it_is_a_backbone_and_stands_on_any() -> None:
    again = FeaturePyramid(create_backbone("resnext50_32x4d", None, ("c3", "c4"), norm="batch", **TINY), 8)
    assert again.strides == {"p3": 8, "p4": 16}
    assert again.input_format is again.backbone.input_format
    assert again.provenance is again.backbone.provenance


def test_wrong_levels_are_refused() -> None:
    for outputs in ([], ["p7"], ["c2"]):
        with pytest.raises(UserError, match="name at least one of p2, p3, p4, p5, p6"):
            pyramid(outputs=outputs)
    with pytest.raises(UserError, match="calls one 'p2'"):
        FeaturePyramid(pyramid(), 8)
