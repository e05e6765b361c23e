"""torch.compile of a backbone: images of any sizes take a handful of compilations."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters

from backbones import create_backbone
from tests.detection.tiny_networks import TINY


def test_images_of_many_sizes_take_few_compilations() -> None:
    """One more for each of height, width and number of images that varies; nothing of ours depends on sizes."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    backbone = create_backbone("resnext50_32x4d", None, ("c4",), norm="frozen", **TINY).eval()
    compiled = create_backbone("resnext50_32x4d", None, ("c4",), norm="frozen", **TINY).eval()
    compiled.load_state_dict(backbone.state_dict())
    compiled.compile(backend="eager")
    sizes = [(1, 608, width) for width in (608, 736, 800, 992)] + [(1, height, 608) for height in (736, 800, 992)]
    with torch.no_grad():
        for number, height, width in [*sizes, (2, 608, 800), (2, 800, 608)]:
            images = torch.randn(number, 3, height, width)
            torch.testing.assert_close(compiled(images)["c4"], backbone(images)["c4"], rtol=1e-4, atol=1e-4)
    assert 1 <= counters["stats"]["unique_graphs"] <= 4
    assert not counters["unimplemented"]
