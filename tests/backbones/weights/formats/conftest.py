"""Small networks with random weights, BN statistics included, that the format tests write to files and read back."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create_backbone, create_classifier

STRUCTURE = {"depths": (1, 2, 1, 1), "cardinality": 4, "base_width": 16, "planes": 16, "stem_width": 16}


def randomize(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            channels = module.num_features
            module.weight.data = torch.rand(channels, generator=generator) + 0.5
            module.bias.data = torch.randn(channels, generator=generator) * 0.1
            module.running_mean = torch.randn(channels, generator=generator) * 0.1
            module.running_var = torch.rand(channels, generator=generator) + 0.5
    return network.eval()


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return randomize(create_classifier("resnext50_32x4d", num_classes=10, **STRUCTURE))


@pytest.fixture
def assert_same_features(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Loads a file as a backbone and as a classifier; both must compute what `network` does."""
    monkeypatch.setenv("RESNEXT_OFFLINE", "1")

    def check(path: Path, norm: str = "frozen", tolerance: float = 1e-5) -> nn.Module:
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        backbone = create_backbone("resnext50_32x4d", str(path), norm=norm, **STRUCTURE).eval()
        classifier = create_classifier("resnext50_32x4d", 10, str(path), norm=norm, **STRUCTURE).eval()
        with torch.no_grad():
            found = backbone(images)
            assert list(found) == ["c2", "c3", "c4", "c5"]
            x = F.max_pool2d(F.relu(network.bn1(network.conv1(images))), 3, 2, 1)
            for level, stage in zip(
                found, (network.layer1, network.layer2, network.layer3, network.layer4), strict=True
            ):
                x = stage(x)
                torch.testing.assert_close(found[level], x, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(classifier(images), network(images), rtol=tolerance, atol=tolerance)
        assert backbone.provenance["weights"]["file"] == path.name
        return backbone

    return check


@pytest.fixture
def structure() -> dict[str, Any]:
    """What makes `network` of a "resnext50_32x4d"."""
    return dict(STRUCTURE)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """256 MiB beyond what the process has: an allocation above that fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
