"""timm's feature convention: the same description and the same maps as timm's own networks give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from backbones import IMAGENET, UserError

timm = pytest.importorskip("timm", reason="TIMM MISSING: its feature convention was not tried; pip install timm")
from timm.data import resolve_model_data_config  # noqa: E402
from timm.models import FeatureListNet  # noqa: E402

from backbones.adapters.timm_features import features_only  # noqa: E402

NAME = "resnext50_32x4d"


@pytest.mark.parametrize("output_stride", [32, 16])
def test_description_and_maps_are_timms(output_stride: int) -> None:
    options = {"out_indices": (0, 2, 3, 4), "output_stride": output_stride}
    theirs = timm.create_model(NAME, pretrained=False, features_only=True, **options).eval()
    ours = features_only(NAME, **options).eval()
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, FeatureListNet)
    for describe in ("channels", "reduction"):
        assert getattr(ours.feature_info, describe)() == getattr(theirs.feature_info, describe)()
    assert ours.feature_info.out_indices == theirs.feature_info.out_indices
    assert ours.feature_info.module_name()[1:] == theirs.feature_info.module_name()[1:]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for got, expected in zip(ours(images), theirs(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("out_indices", "channels"),
    [((0,), [16]), ((1, 3), [64, 256]), ((-1,), [512]), ((-2, -1), [256, 512]), (2, [256, 512]), ((4, 0), [16, 512])],
)
def test_out_indices(out_indices: Any, channels: list[int], structure: dict[str, Any]) -> None:
    features = features_only(NAME, out_indices=out_indices, **structure)
    assert features.feature_info.channels() == channels
    maps = features(torch.rand(1, 3, 64, 96))
    assert isinstance(maps, list)
    for single, count, reduction in zip(maps, channels, features.feature_info.reduction(), strict=True):
        assert single.shape == (1, count, 64 // reduction, 96 // reduction)


@pytest.mark.parametrize("out_indices", [(), (5,), (-6,), 6, 0])
def test_indices_that_do_not_exist(out_indices: Any, structure: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"out_indices is .*0 \(the stem\) to 4"):
        features_only(NAME, out_indices=out_indices, **structure)


def test_cifar_network() -> None:
    features = features_only("resnext29_2x16d", out_indices=(0, 1, 2, 3), planes=16, stem_width=16)
    assert features.feature_info.reduction() == [1, 1, 2, 4]
    assert [single.shape[-1] for single in features(torch.rand(1, 3, 32, 32))] == [32, 32, 16, 8]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trains(checkpointing: bool, structure: dict[str, Any], pixels: Tensor, assert_trains: Any) -> None:
    torch.manual_seed(0)
    features = features_only(NAME, freeze="c2", **structure)
    features.set_grad_checkpointing(checkpointing)
    maps = features(IMAGENET.normalize(pixels))
    assert_trains(features, sum(single.square().mean() for single in maps[1:]))


def test_pixels_arrive_in_the_convention_of_the_weights(
    foreign_weights: str, structure: dict[str, Any], pixels: Tensor, reference: dict[str, Tensor]
) -> None:
    features = features_only(NAME, foreign_weights, (1, 2, 3, 4), **structure).eval()
    data = resolve_model_data_config(features)
    assert (data["mean"], data["std"]) == (IMAGENET.mean, IMAGENET.std)
    mean, std = (torch.tensor(data[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        maps = features((pixels / 255.0 - mean) / std)
    for got, expected in zip(maps, reference.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
