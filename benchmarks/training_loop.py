"""What the training loop itself costs the host, a step: ours around a network that computes next to nothing.

    python -m benchmarks.training_loop

The network multiplies an image of one pixel by one weight. `detection.training.loop.train` trains it, with a log line
every 20 steps and without checkpoints, beside the plain five lines of PyTorch (forward, backward, update, with the same
optimizer) on the same batches. The difference is what the loop adds to every step of every training on the host: the
checks that losses and gradients are finite, running means, learning rate, signals, the log. On a GPU it is hidden
behind the step's kernels where a step takes longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, environment, interleaved, markdown, seconds, table, write_result
from detection.command_line import run
from detection.training.loop import train

IMAGES = 2


@dataclass
class PixelBatch:
    """images (N, 1), image_ids (N,)."""

    images: Tensor
    image_ids: Tensor

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device, non_blocking: bool = False) -> PixelBatch:
        return self

    def halves(self) -> tuple[PixelBatch, PixelBatch]:
        middle = len(self) // 2
        first = PixelBatch(self.images[:middle], self.image_ids[:middle])
        return first, PixelBatch(self.images[middle:], self.image_ids[middle:])


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch: PixelBatch) -> dict[str, Tensor]:
        return {"loss": (self.weight * batch.images).sum(dim=1)}


def ours(steps: int) -> Callable[[], object]:
    network, optimizer, batch = _made()

    def batches(first: int) -> Iterator[PixelBatch]:
        for _ in range(first, steps):
            yield batch

    return lambda: train(
        network, batches, optimizer, steps=steps, schedule=lambda step: 1e-9, global_batch=IMAGES,
        device=torch.device("cpu"),
    )  # fmt: skip


def plain(steps: int) -> Callable[[], object]:
    network, optimizer, batch = _made()

    def call() -> None:
        for _ in range(steps):
            loss = torch.stack(list(network(batch).values())).sum() / IMAGES
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return call


def _made() -> tuple[OneWeight, torch.optim.Optimizer, PixelBatch]:
    network = OneWeight()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9, momentum=0.9)
    return network, optimizer, PixelBatch(torch.ones(IMAGES, 1), torch.arange(IMAGES))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: 5)")
    parser.add_argument("--steps", type=int, default=500, help="of a round (default: 500)")
    parser.add_argument("--quick", action="store_true", help="two rounds of 20 steps, to see that it runs; no file")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/training_loop.json")
    options = parser.parse_args()
    steps, repeats = (20, 2) if options.quick else (options.steps, options.repeats)
    timings = interleaved({"ours": ours(steps), "plain": plain(steps)}, repeats)
    medians = {who: timing.median / steps for who, timing in timings.items()}
    rows = [
        ["the training loop", seconds(medians["ours"])],
        ["plain PyTorch", seconds(medians["plain"])],
        ["what the loop adds", seconds(medians["ours"] - medians["plain"])],
    ]
    found = table("The host's time of a step of a network of one weight", ["", "a step"], rows)
    print(markdown(found))
    output = options.output or (None if options.quick else RESULTS / "training_loop.json")
    if output is not None:
        numbers = {who: timing.to_dict() for who, timing in timings.items()}
        about = environment("training_loop")
        result = {"title": "The training loop's own time", "environment": about, "tables": [found]}
        write_result(output, {**result, "steps": steps, "seconds": numbers})
        print(f"\n{output}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
