"""The table of sources, held against what torchvision and timm themselves declare."""

from __future__ import annotations

import re

import pytest
import torch
import torchvision

from backbones import IMAGENET, VARIANTS, UserError, create_classifier
from backbones.common.files import sha256_of
from backbones.weights.sources import (
    DETECTRON,
    DETECTRON2_RESNEXT,
    OPENMMLAB,
    SHIPPED,
    SOURCES,
    Source,
    find_source,
    sources_for,
)

WITHOUT_TIMM = "TIMM MISSING: the rows of its weights were not held against it; pip install timm"
BY_NAME = {(source.name, source.variant): source for source in SOURCES}


def of(provider: str) -> list[Source]:
    return [source for source in SOURCES if source.name.startswith(provider + "/")]


def test_rows_are_distinct_and_whole() -> None:
    assert len(BY_NAME) == len(SOURCES)
    files = {(source.name.partition("/")[0], source.file_name) for source in SOURCES}
    assert len(files) == len(SOURCES), "two rows would share a file in the cache"
    for source in SOURCES:
        assert source.variant in VARIANTS
        assert (source.url or "https://").startswith("https://")
        assert source.sha256 is None or re.fullmatch("[0-9a-f]{8}|[0-9a-f]{64}", source.sha256)
        assert source.top1 is None or 75 < source.top1 < 86


@pytest.mark.parametrize("source", of("builtin"), ids=lambda source: source.variant)
def test_files_that_ship_are_whole_small_and_start_a_network(source: Source) -> None:
    file = SHIPPED / source.file_name
    assert source.url is None
    assert sha256_of(file) == source.sha256
    network = create_classifier(source.variant, 200, source.name)
    assert network.provenance["weights"]["source"] == "builtin/tiny_imagenet"
    assert network.input_format == IMAGENET
    assert source.sha256 in (SHIPPED / "README.md").read_text(), "its card names another file"


def test_the_files_that_ship_take_at_most_10_megabytes() -> None:
    assert {file.name for file in SHIPPED.iterdir()} == {"README.md", *(one.file_name for one in of("builtin"))}
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 10_000_000


@pytest.mark.parametrize("source", of("torchvision"), ids=lambda source: f"{source.variant}.{source.name}")
def test_torchvision_rows(source: Source) -> None:
    weights = torchvision.models.get_model_weights(source.variant)[source.name.removeprefix("torchvision/")]
    assert source.url == weights.url
    assert source.sha256 == re.search(r"-([0-9a-f]+)\.pth$", weights.url)[1]
    assert source.top1 == pytest.approx(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"])
    transforms = weights.transforms()
    assert (source.input_format.mean, source.input_format.std) == (tuple(transforms.mean), tuple(transforms.std))
    assert source.input_format == IMAGENET
    assert transforms.crop_size == [source.image_size]


def test_no_torchvision_weights_are_left_out() -> None:
    for variant in VARIANTS:
        if variant in torchvision.models.list_models():
            names = {f"torchvision/{weights.name}" for weights in torchvision.models.get_model_weights(variant)}
            assert names == {source.name for source in of("torchvision") if source.variant == variant}


@pytest.mark.parametrize("source", of("timm"), ids=lambda source: f"{source.variant}.{source.name}")
def test_timm_rows(source: Source) -> None:
    timm = pytest.importorskip("timm", reason=WITHOUT_TIMM)
    config = timm.models.get_pretrained_cfg(f"{source.variant}.{source.name.removeprefix('timm/')}")
    assert source.url.startswith(f"https://huggingface.co/{config.hf_hub_id}/resolve/main/")
    assert source.licence.lower().replace(" ", "-") == config.license
    assert (source.input_format.mean, source.input_format.std) == (config.mean, config.std)
    assert source.input_format == IMAGENET
    assert source.image_size == (config.test_input_size or config.input_size)[-1]


def test_no_timm_resnext_weights_are_left_out() -> None:
    timm = pytest.importorskip("timm", reason=WITHOUT_TIMM)
    for variant in VARIANTS:
        if variant.startswith("resnext"):
            tags = {name.partition(".")[2] for name in timm.list_pretrained(f"{variant}.*")}
            assert {f"timm/{tag}" for tag in tags} == {s.name for s in of("timm") if s.variant == variant}


def test_input_conventions() -> None:
    """FACTS of each source, in the units that a pixel is changed by: mean and deviation in bytes, by channel."""
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[:, 0] = 200
    expected = {
        DETECTRON: (0 - 102.9801, 0 - 115.9465, 200 - 122.7717),
        DETECTRON2_RESNEXT: ((0 - 103.53) / 57.375, (0 - 116.28) / 57.12, (200 - 123.675) / 58.395),
        OPENMMLAB: ((200 - 123.675) / 58.395, (0 - 116.28) / 57.12, (0 - 103.53) / 57.375),
        IMAGENET: ((200 / 255 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225),
    }
    for input_format, numbers in expected.items():
        torch.testing.assert_close(input_format.normalize(red).flatten(), torch.tensor(numbers), rtol=1e-5, atol=1e-5)
    assert all(source.input_format == DETECTRON for source in of("detectron"))
    assert BY_NAME["openmmlab/resnext101_32x8d", "resnext101_32x8d"].input_format == DETECTRON2_RESNEXT
    assert BY_NAME["openmmlab/resnext101_32x4d", "resnext101_32x4d"].input_format == OPENMMLAB


def test_licences_are_told() -> None:
    paper = BY_NAME["facebookresearch/resnext_101_32x4d", "resnext101_32x4d"]
    assert paper.non_commercial
    assert "CC BY-NC 4.0, NON-COMMERCIAL USE ONLY" in paper.describe()
    assert "no published checksum" in paper.describe()
    gluon = BY_NAME["timm/gluon_in1k", "resnext101_32x4d"]
    assert not gluon.non_commercial
    assert gluon.describe() == (
        "timm/gluon_in1k for resnext101_32x4d: top-1 80.3 % at 224 px, licence Apache-2.0"
    )  # fmt: skip
    assert "BN fused (frozen only)" in BY_NAME["detectron/X-101-64x4d", "resnext101_64x4d"].describe()
    assert {source.name.partition("/")[0] for source in SOURCES if source.non_commercial} == {
        "facebookresearch",
        "timm",
    }


def test_finding() -> None:
    gluon = find_source("timm/gluon_in1k", "resnext101_32x4d")
    assert gluon is not None
    assert gluon.variant == "resnext101_32x4d"
    assert find_source("default", "resnext101_32x4d") == gluon, "torchvision has none for it"
    assert find_source("default", "resnext50_32x4d") == BY_NAME["torchvision/IMAGENET1K_V1", "resnext50_32x4d"]
    assert find_source("some/path.pth", "resnext50_32x4d") is None
    with pytest.raises(
        UserError, match=r"not for the network resnext101_32x4d: .*For resnext101_32x4d there are timm/gluon_in1k"
    ):
        find_source("torchvision/IMAGENET1K_V1", "resnext101_32x4d")
    with pytest.raises(UserError, match="No public weights are known for resnext50_8x14d"):
        find_source("default", "resnext50_8x14d")
    assert [source.name for source in sources_for("resnext152_32x8d")] == ["detectron/X-152-32x8d-IN5k"]
