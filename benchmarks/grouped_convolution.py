"""ResNeXt's grouped 3×3 convolution by every implementation of `backbones.grouped`, at each shape of a detector.

    python -m benchmarks.grouped_convolution                    fp32 on the CPU, where the library's is always taken
    python -m benchmarks.grouped_convolution --device cuda      fp32, bf16; Triton's kernels among them
    python -m benchmarks.grouped_convolution --quick            to see that it runs: small maps, twice; no file

The shapes are those of ResNeXt-50 and -101 32×4d on an image of 608 × 800: the trunk's, and conv5's for 64 regions.
All implementations get the same tensors, channels last, and must give the library's numbers; then they take turns. A
cell is the time by the library's: below 1 is faster. On a GPU, `runtime.grouped_convolutions=fastest` takes the least
of each row by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from backbones.common.errors import UserError
from backbones.grouped.implementations import (
    LIBRARY,
    Implementation,
    block_diagonal_candidates,
    triton_candidates,
)
from backbones.grouped.shapes import Geometry
from benchmarks.common import RESULTS, Timing, environment, interleaved, present, seconds, table
from detection.command_line import run
from detection.training.distributed import process_group

GROUPS = 32
DIRECTIONS = ("forward", "input gradient", "weight gradient")
_TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 5e-2}  # of the largest value; a GPU may multiply float32 as TF32


class Case(NamedTuple):
    """`maps` of channels × height × width go in."""

    name: str
    maps: int
    channels: int
    height: int
    width: int
    stride: int


CASES = (
    Case("c2", 1, 128, 152, 200, 1),
    Case("c3, first block", 1, 256, 152, 200, 2),
    Case("c3", 1, 256, 76, 100, 1),
    Case("c4, first block", 1, 512, 76, 100, 2),
    Case("c4", 1, 512, 38, 50, 1),
    Case("conv5, 64 regions, first block", 64, 1024, 14, 14, 2),
    Case("conv5, 64 regions", 64, 1024, 7, 7, 1),
)


def main() -> int:
    options = _arguments().parse_args()
    cases, repeats = CASES, options.repeats
    if options.quick:
        cases, repeats = tuple(case._replace(maps=1, height=14, width=14) for case in CASES[:2]), 2
    tables, numbers = [], {}
    with process_group(options.device) as device:
        for dtype in (torch.float32,) if device.type == "cpu" else (torch.float32, torch.bfloat16):
            precision = str(dtype).removeprefix("torch.")
            measured: dict[str, dict[str, Timing]] = {}
            for case in cases:
                for direction, functions in compared(case, dtype, device).items():
                    what = f"{case.name}: {direction}"
                    measured[what] = timed(functions, repeats, device)
                    print(*_row(what, measured[what], list(functions)), sep="  ", flush=True)
            names = list(dict.fromkeys(name for timings in measured.values() for name in timings))
            rows = [_row(what, timings, names) for what, timings in measured.items()]
            where = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
            columns = ("time by the library's", "library", *(name for name in names if name != LIBRARY.name))
            tables.append(table(f"Grouped 3×3 convolutions on the {where}, {precision}", columns, rows))
            numbers[precision] = {
                what: {name: timing.to_dict() for name, timing in timings.items()} for what, timings in measured.items()
            }
        about = environment("grouped_convolution", device)
    suffix = "" if options.device == "cpu" else f"_{options.device}"
    output = options.output or (None if options.quick else RESULTS / f"grouped_convolution{suffix}.json")
    present(output, "Grouped convolutions, by implementation", about, tables, seconds=numbers)
    return 0


def compared(
    case: Case, dtype: torch.dtype, device: torch.device, failures: dict[str, str] | None = None
) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Direction → name of the implementation → what is timed, after a check that all agree with the library.

    failures: takes what does not agree or run, by direction and implementation, and why; it is then left out.

    Raises:
        UserError: one does not agree, and there are no `failures` to take it.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        tensor = torch.randn(size, generator=generator).to(device, dtype)
        return tensor.contiguous(memory_format=torch.channels_last)

    geometry = Geometry(case.stride, 1, 1, GROUPS)
    x = random(case.maps, case.channels, case.height, case.width)
    weight = random(case.channels, case.channels // GROUPS, 3, 3)
    gradient = random(*LIBRARY.forward(x, weight, None, geometry).shape)
    implementations = [LIBRARY, *block_diagonal_candidates(case.channels, GROUPS)]
    if device.type == "cuda":
        implementations += triton_candidates(case.channels, GROUPS, dtype)

    def work(direction: str, by: Implementation) -> Tensor:
        if direction == "forward":
            return by.forward(x, weight, None, geometry)
        if direction == "input gradient":
            return by.input_gradient(gradient, weight, tuple(x.shape), geometry)
        return by.weight_gradient(gradient, x, weight, geometry)

    found = {}
    for direction in DIRECTIONS:
        expected, agreeing = work(direction, LIBRARY), [LIBRARY]
        for by in implementations[1:]:
            try:
                difference = (work(direction, by) - expected).abs().max() / expected.abs().max()
                if not difference <= _TOLERANCE[dtype]:
                    raise UserError(f"{case.name}, {direction}: {by.name} differs from the library by {difference:.1e}")
                agreeing.append(by)
            except Exception as error:  # compilers and drivers may raise anything
                if failures is None:
                    raise
                failures[f"{direction}: {by.name}"] = f"{type(error).__name__}: {error}"
        found[direction] = {by.name: torch.no_grad()(partial(work, direction, by)) for by in agreeing}
    return found


def timed(functions: Mapping[str, Callable[[], Tensor]], repeats: int, device: torch.device) -> dict[str, Timing]:
    """On a GPU, many calls in a row: one alone would be waited for, and its launch be timed as well."""
    calls = 1 if device.type == "cpu" else 50

    def repeated(function: Callable[[], Tensor]) -> None:
        for _ in range(calls):
            function()

    rounds = {name: partial(repeated, function) for name, function in functions.items()}
    timings = interleaved(rounds, repeats, least_seconds=0.3, device=device)
    return {name: Timing(tuple(one / calls for one in timing.rounds)) for name, timing in timings.items()}


def _row(what: str, timings: Mapping[str, Timing], names: list[str]) -> list[str]:
    library = timings[LIBRARY.name]
    others = [
        f"{timings[name].ratio_to(library):.2f}" if name in timings else "" for name in names if name != LIBRARY.name
    ]
    return [what, seconds(library.median), *others]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5); short ones get more")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    parser.add_argument("--quick", action="store_true", help="two small maps, twice, to see that it runs; no file")
    parser.add_argument(
        "--output",
        type=Path,
        help="benchmarks/results/grouped_convolution.json by default, grouped_convolution_cuda.json on a GPU",
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
