"""ResNeXt's 1×1 convolutions of stride 1 on the CPU in fp32: PyTorch's own choice, oneDNN's kernel, a matrix product.

    python -m benchmarks.pointwise_convolution                         batches of 1, 2 and 8, with 1 and 2 threads
    python -m benchmarks.pointwise_convolution --threads 4 --batch 16
    python -m benchmarks.pointwise_convolution --quick                 to see that it runs: two small maps; no file

The shapes are those of ResNeXt-50 and -101 32×4d on an image of 608 × 800: the trunk's and the RPN head's, and conv5's
for 64 regions. A cell is the time by that of `torch.nn.functional.conv2d`: below 1 is faster. oneDNN's kernel is what
`backbones/pointwise.py` takes; the matrix product is `torch.nn.functional.linear` over the same memory, channels last,
without a copy. All three must give the same numbers; then they take turns.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from backbones.common.errors import UserError
from backbones.pointwise import pointwise_conv2d
from benchmarks.common import RESULTS, Timing, environment, interleaved, present, seconds, table
from detection.command_line import run
from detection.training.memory import keep_freed_memory

Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]
_TOLERANCE = 1e-4  # of the largest value


class Case(NamedTuple):
    """One map an image, or the maps of an image's regions."""

    name: str
    inputs: int
    outputs: int
    height: int
    width: int
    regions: int = 1


CASES = (
    Case("c2, to 3×3", 256, 128, 152, 200),
    Case("c2, from 3×3", 128, 256, 152, 200),
    Case("c3, to 3×3", 512, 256, 76, 100),
    Case("c3, from 3×3", 256, 512, 76, 100),
    Case("c4, to 3×3", 1024, 512, 38, 50),
    Case("c4, from 3×3", 512, 1024, 38, 50),
    Case("RPN's outputs", 1024, 75, 38, 50),
    Case("conv5, to 3×3", 2048, 1024, 7, 7, 64),
    Case("conv5, from 3×3", 1024, 2048, 7, 7, 64),
)
_MOST_VALUES = 1 << 26  # of input and output together; larger ones are left out


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution as a matrix product; of maps in channels_last order, without a copy."""
    return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


IMPLEMENTATIONS: dict[str, Convolution] = {
    "conv2d": functional.conv2d,
    "oneDNN": pointwise_conv2d,
    "product": product,
}


def main() -> int:
    options = _arguments().parse_args()
    keep_freed_memory()  # as trainings and detectors do
    before = torch.get_num_threads()
    tables, numbers = [], {}
    cases = [case._replace(height=7, width=7, regions=1) for case in CASES[:2]] if options.quick else CASES
    for threads in options.threads:
        torch.set_num_threads(threads)
        rows = []
        for batch in options.batch:
            for case in cases:
                if (case.inputs + case.outputs) * case.height * case.width * case.regions * batch > _MOST_VALUES:
                    continue
                measured = {
                    what: interleaved(functions, 2 if options.quick else options.repeats, least_seconds=options.least)
                    for what, functions in compared(case, batch).items()
                }
                rows.append(_row(f"{batch} × {case.name}", measured))
                print(f"{threads} thread(s)", *rows[-1], sep="  ", flush=True)
                numbers[f"{threads} threads, {rows[-1][0]}"] = {
                    what: {name: timing.to_dict() for name, timing in timings.items()}
                    for what, timings in measured.items()
                }
        others = list(IMPLEMENTATIONS)[1:]
        columns = ["time by conv2d's", "forward: conv2d", *others, "with gradients: conv2d", *others]
        tables.append(table(f"1×1 convolutions, fp32, {threads} thread{'s' * (threads > 1)}", columns, rows))
    torch.set_num_threads(before)
    output = options.output or (None if options.quick else RESULTS / "pointwise_convolution.json")
    present(output, "1×1 convolutions", environment("pointwise_convolution"), tables, seconds=numbers)
    return 0


def compared(case: Case, batch: int) -> dict[str, dict[str, Callable[[], object]]]:
    """ "forward" and "with gradients" → implementation → what is timed, after a check that all agree.

    Raises:
        UserError: one does not agree.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        tensor = torch.randn(size, generator=generator)
        return tensor.contiguous(memory_format=torch.channels_last) if len(size) == 4 else tensor

    maps = batch * case.regions
    leaves = [
        random(maps, case.inputs, case.height, case.width), random(case.outputs, case.inputs, 1, 1),
        random(case.outputs),
    ]  # fmt: skip
    learning = [leaf.clone().requires_grad_() for leaf in leaves]
    gradient = random(maps, case.outputs, case.height, case.width)

    def forward(by: Convolution) -> list[Tensor]:
        with torch.inference_mode():
            return [by(*leaves)]

    def backward(by: Convolution) -> list[Tensor]:
        return list(torch.autograd.grad(by(*learning), learning, gradient))

    found: dict[str, dict[str, Callable[[], object]]] = {}
    for what, work in (("forward", forward), ("with gradients", backward)):
        expected = work(functional.conv2d)
        for name, by in IMPLEMENTATIONS.items():
            for one, other in zip(work(by), expected, strict=True):
                difference = (one - other).abs().max() / other.abs().max()
                if not difference <= _TOLERANCE:
                    raise UserError(f"{case.name}, {what}: {name} differs from conv2d by {difference:.1e}")
        found[what] = {name: lambda work=work, by=by: work(by) for name, by in IMPLEMENTATIONS.items()}  # type: ignore[misc]
    return found


def _row(what: str, measured: Mapping[str, Mapping[str, Timing]]) -> list[str]:
    cells = [what]
    for timings in measured.values():
        first, *others = timings.values()
        cells += [seconds(first.median), *(f"{other.ratio_to(first):.2f}" for other in others)]
    return cells


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of PyTorch (default: 1 2)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8], help="images (default: 1 2 8)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3); short ones get more")
    parser.add_argument("--least", type=float, default=0.3, help="seconds of each comparison (default: 0.3)")
    parser.add_argument("--quick", action="store_true", help="two small maps, twice, to see that it runs; no file")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/pointwise_convolution.json")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
