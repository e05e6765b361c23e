"""RoIAlign on a CPU: our two matrix products beside torchvision's operator, in training also with the gradient.

    python -m benchmarks.roi_align

Both get the same map and regions and must give the same numbers; torchvision's gets the map in its own memory order.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from backbones.common.errors import UserError
from benchmarks.common import (
    COMPARISON_COLUMNS,
    OURS,
    PEER,
    RESULTS,
    Timing,
    comparison_rows,
    environment,
    interleaved,
    table,
    write_comparison,
)
from detection.command_line import run
from detection.kernels.roi_align import roi_align

_STRIDE, _SAMPLES = 16, 2
_TOLERANCE = 1e-4  # of float32 sums of values around 1, over up to 1,000 regions for the gradient


class Case(NamedTuple):
    """`regions` of all `images`, pooled into bins × bins from maps (images, channels, height, width)."""

    regions: int
    images: int
    channels: int
    height: int
    width: int
    bins: int
    training: bool


CASES = (
    Case(64, 1, 1024, 38, 50, 14, True),  # ResNeXt-50 on 608 × 800: a training step, 300 and 1,000 proposals at test
    Case(300, 1, 1024, 38, 50, 14, False),
    Case(1000, 1, 1024, 38, 50, 14, False),
    Case(256, 4, 256, 16, 20, 7, True),  # configs/bccd.yaml: a training step
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="the smallest case alone, twice, to see that it runs; no file"
    )
    parser.add_argument("--output", type=Path, help="benchmarks/results/roi_align.json by default")
    options = parser.parse_args()
    measured: dict[str, dict[str, Timing]] = {}
    for case in CASES[-1:] if options.quick else CASES:
        maps = f"{case.images} × {case.channels} × {case.height} × {case.width}"
        name = f"{case.regions} regions of {maps}, {case.bins} bins"
        forward, backward = compared(case)
        repeats = 2 if options.quick else options.repeats
        measured[name] = interleaved(forward, repeats, least_seconds=1.0)
        if case.training:
            measured[f"{name}, with gradient"] = interleaved(backward, repeats, least_seconds=1.0)
    comparison = table("RoIAlign, fp32", COMPARISON_COLUMNS, list(comparison_rows(measured)))
    output = options.output or (None if options.quick else RESULTS / "roi_align.json")
    write_comparison(output, "RoIAlign", environment("roi_align"), [comparison], measured)
    return 0


def compared(case: Case) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """The two as functions, forward alone and with the gradient, after a check that they agree.

    Raises:
        UserError: they do not.
    """
    torch.manual_seed(0)
    plain = torch.randn(case.images, case.channels, case.height, case.width)
    features = plain.contiguous(memory_format=torch.channels_last)
    size = torch.tensor([case.width, case.height, case.width, case.height]) * _STRIDE
    corner = torch.rand(case.regions, 2) * 0.8
    far = (corner + 0.03 + torch.rand(case.regions, 2) ** 2).clamp(max=1)  # many small ones, few large
    boxes = torch.cat([corner, far], dim=1) * size
    image = torch.arange(case.regions) % case.images
    rois = torch.cat([image[:, None].float(), boxes], dim=1)
    gradient = torch.randn(case.regions, case.channels, case.bins, case.bins)

    def ours(features: Tensor) -> Tensor:
        return roi_align(features, image, boxes, case.bins, 1 / _STRIDE, _SAMPLES)

    def theirs(features: Tensor) -> Tensor:
        return torchvision.ops.roi_align(features, rois, case.bins, 1 / _STRIDE, _SAMPLES, aligned=True)

    def with_gradient(pool: Callable[[Tensor], Tensor], features: Tensor, gradient: Tensor) -> Tensor:
        leaf = features.detach().requires_grad_()
        return torch.autograd.grad(pool(leaf), leaf, gradient)[0]

    forward = {OURS: partial(ours, features), PEER: partial(theirs, plain)}
    own_order = gradient.contiguous(memory_format=torch.channels_last)
    backward = {
        OURS: partial(with_gradient, ours, features, own_order),
        PEER: partial(with_gradient, theirs, plain, gradient),
    }
    for what, functions in (("", forward), (" gradient", backward))[: 2 if case.training else 1]:
        one, other = (functions[who]() for who in (OURS, PEER))
        difference = (one - other).abs().max() / other.abs().max()
        if difference > _TOLERANCE:
            raise UserError(f"{case}:{what} differs from torchvision's by {difference:.1e} of its largest value")
    return dict(forward), dict(backward)


if __name__ == "__main__":
    sys.exit(run(main))
