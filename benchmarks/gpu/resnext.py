"""(c) ResNeXt-101 32×4d beside ResNet-101, and the grouped convolution by every implementation at every shape.

The paper's section 5 has 0.95 s for a step of ResNeXt-101 and 0.70 s for one of ResNet-101 on eight M40 (1.36); both
have the same number of operations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones import create_backbone, fastest_grouped_convolutions
from benchmarks.common import interleaved
from benchmarks.gpu.results import Work
from benchmarks.gpu.scenes import DTYPES
from benchmarks.gpu.speed import timed
from benchmarks.grouped_convolution import CASES, compared
from benchmarks.grouped_convolution import timed as timed_shape

RESNET, RESNEXT = "resnet101", "resnext101_32x4d"
PAPER_RATIO = 0.95 / 0.70
# Work → norm, outputs, images, height, width. The first is the paper's share of a GPU.
WORKS: dict[str, tuple[str, tuple[str, ...], int, int, int]] = {
    "classification: a step of 32 images of 224 × 224": ("batch", ("c5",), 32, 224, 224),
    "detection: C4 trunk, a step of 2 images of 800 × 1088": ("frozen", ("c4",), 2, 800, 1088),
}


def networks(work: Work, *, precision: str) -> dict[str, Any]:
    """Seconds of forward and backward of both networks, as they are and compiled, and of the ResNeXt with the fastest
    grouped convolutions; ratios to the ResNet that is compiled or not as it is. A variant that fails has its error."""
    rows, errors = [], {}
    for what, (norm, outputs, images, height, width) in WORKS.items():
        if work.quick:
            images, height, width = 1, 64, 96
        x = torch.randn(images, 3, height, width, device=work.device).contiguous(memory_format=torch.channels_last)
        functions: dict[str, Callable[[], object]] = {}
        for name in (RESNET, RESNEXT):
            for variant in ("library", "compiled", *(["fastest"] if name == RESNEXT else [])):
                if work.quick and variant == "compiled":
                    continue
                try:
                    step = partial(_step, _network(work, name, variant, norm, outputs), x, DTYPES[precision])
                    interleaved({"once": step}, 1, device=work.device)
                except Exception as error:  # compilers and drivers may raise anything
                    errors[f"{what}, {name}, {variant}"] = f"{type(error).__name__}: {error}"
                else:
                    functions[f"{name}, {variant}"] = step
        timings = timed(functions, work)
        for name, timing in timings.items():
            network, variant = name.split(", ")
            base = timings.get(f"{RESNET}, {'compiled' if variant == 'compiled' else 'library'}")
            ratio = None if base is None else timing.ratio_to(base)
            row = {"what": what, "network": network, "variant": variant, "images": images, "ratio": ratio}
            rows.append({**row, "seconds": timing.to_dict()})
    return {"rows": rows, "errors": errors}


def _network(work: Work, name: str, variant: str, norm: str, outputs: tuple[str, ...]) -> nn.Module:
    torch.manual_seed(0)
    structure = {"depths": (1, 1, 1, 1)} if work.quick else {}
    network = create_backbone(name, None, outputs, norm=norm, **structure)
    network = network.to(work.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if variant == "fastest":
        fastest_grouped_convolutions(network)
    if variant == "compiled":
        network.compile()
    return network


def _step(network: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    with torch.autocast(x.device.type, dtype, enabled=dtype != torch.float32):
        loss = torch.stack([features.float().mean() for features in network(x).values()]).sum()
    loss.backward()
    network.zero_grad(set_to_none=True)


def shape(work: Work, *, precision: str, case: int) -> dict[str, Any]:
    """Seconds of each implementation of one grouped convolution in each direction, and what failed or disagreed."""
    one = CASES[case]
    if work.quick:
        one = one._replace(maps=1, height=14, width=14)
    failures: dict[str, str] = {}
    rows = []
    for direction, functions in compared(one, DTYPES[precision], work.device, failures).items():
        timings = timed_shape(functions, 1 if work.quick else 5, work.device)
        seconds = {name: timing.to_dict() for name, timing in timings.items()}
        rows.append({"shape": one.name, "direction": direction, "seconds": seconds})
    return {"rows": rows, "errors": failures}
