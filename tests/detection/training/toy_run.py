"""A tiny network on drawn numbers that trains in milliseconds: the subject of the training room's tests.

Also a program, for tests that start, kill and restart real processes: `python toy_run.py FOLDER [key=value …]`, alone
or under torchrun. It leaves the weights in FOLDER/final_<rank>.pt and ends with the outcome's exit status; a UserError
goes to stderr as one line, with status 1.
"""

from __future__ import annotations

import json
import multiprocessing
import operator
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.common.errors import UserError
from detection.command_line import leave
from detection.data.workers import joined_batches
from detection.training.artifacts import save_artifact
from detection.training.averaging import WeightAverage
from detection.training.best import Best
from detection.training.checkpoints import Checkpointer
from detection.training.distributed import process_group, rank, was_restarted, world_size
from detection.training.evaluation import Evaluation
from detection.training.logging import TrainingLog
from detection.training.loop import Outcome, train
from detection.training.optimizer import build_optimizer
from detection.training.schedule import Schedule


@dataclass
class ToyBatch:
    images: Tensor  # (N, 3, 6, 6)
    image_ids: Tensor  # (N,)

    def __len__(self) -> int:
        return len(self.image_ids)

    def to(self, device: torch.device, non_blocking: bool = False) -> ToyBatch:
        return ToyBatch(
            self.images.to(device, non_blocking=non_blocking), self.image_ids.to(device, non_blocking=non_blocking)
        )

    def halves(self) -> tuple[ToyBatch, ToyBatch]:
        middle = len(self) // 2
        first = ToyBatch(self.images[:middle], self.image_ids[:middle])
        return first, ToyBatch(self.images[middle:], self.image_ids[middle:])


class ToyNetwork(nn.Module):
    """Convolution, batch normalisation and dropout as wished, a linear layer; two per-image losses.

    With `plain` it has neither: its gradient is then a sum over images, whichever way they are dealt out.
    """

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.Identity() if plain else nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.0 if plain else 0.3)
        self.linear = nn.Linear(8, 2)

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        features = torch.relu(self.norm(self.conv(batch.images))).mean(dim=(2, 3))
        first, second = self.linear(self.dropout(features)).float().unbind(dim=1)
        return {
            "classification": (first - 1) ** 2,
            "regression": second.abs() + batch.images.mean(dim=(1, 2, 3)).float() ** 2,
        }


def image(image_id: int) -> Tensor:
    """(3, 6, 6), a function of its id."""
    return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(image_id))


class Parts:
    """(any epoch, number) → a micro-batch: step s holds the images s·B … s·B + B − 1, dealt out evenly to ranks and
    micro-batches; `bad_image` is NaN."""

    def __init__(self, global_batch: int, accumulation: int = 1, rank: int = 0, world: int = 1, bad_image: int = -1):
        self.global_batch, self.accumulation, self.rank, self.world = global_batch, accumulation, rank, world
        self.bad_image = bad_image

    def __getitem__(self, key: tuple[int, int]) -> ToyBatch:
        step, part = divmod(key[1], self.accumulation)
        whole = torch.arange(step * self.global_batch, (step + 1) * self.global_batch)
        ids = whole.tensor_split(self.world * self.accumulation)[self.rank * self.accumulation + part]
        images = torch.stack([image(int(i)) * (float("nan") if int(i) == self.bad_image else 1.0) for i in ids])
        return ToyBatch(images, ids)

    def name(self, key: tuple[int, int]) -> str:
        return f"micro-batch {key[1]}"


def toy_batches(
    *,
    global_batch: int,
    accumulation: int = 1,
    rank: int = 0,
    world: int = 1,
    bad_image: int = -1,
    last_step: int = 10**6,
) -> Callable[[int], Iterator[ToyBatch]]:
    """First step → the micro-batches of `Parts` from there on."""
    parts = Parts(global_batch, accumulation, rank, world, bad_image)

    def batches(first_step: int) -> Iterator[ToyBatch]:
        torch.rand(3)  # a loader, too, may draw from the global generator when it starts
        for number in range(first_step * accumulation, last_step * accumulation):
            yield parts[0, number]

    return batches


@dataclass
class Settings:
    """What a test may set on the command line."""

    folder: str
    steps: int = 30
    global_batch: int = 4
    accumulation: int = 1
    checkpoint_every: int = 5
    evaluate_every: int = 0
    resume: bool = False
    plain: bool = False
    bad_image: int = -1
    seconds_per_step: float = 0.0
    time_limit: float = 60.0
    hang_rank: int = -1  # this rank stops answering in step `fault_step`
    kill_rank: int = -1  # this rank kills itself in step `fault_step`, in torchrun's first attempt only
    fault_step: int = 10
    odd_rank: int = -1  # this rank is started with one step more than the others
    evaluation_seconds: float = 0.0
    workers: int = 0  # processes that make the batches
    ema: float | None = None
    patience: int | None = None
    turn_step: int = 10**6  # evaluations after it are worse the later they come
    fail_step: int = -1  # in it, an exception that is no user error


def figures_of(network: nn.Module) -> dict[str, float]:
    """What a network comes to on four images that it is not trained on."""
    with torch.no_grad():
        losses = network(ToyBatch(torch.stack([image(10**6 + i) for i in range(4)]), torch.arange(4)))
    return {"figure": -float(losses["classification"].sum())}


def run(settings: Settings, device: torch.device) -> tuple[nn.Module, Outcome]:
    """One session of the toy's training; the network's attribute `average` is the average of its weights, or None."""
    torch.manual_seed(1)
    network = ToyNetwork(plain=settings.plain).to(device)
    parts = Parts(settings.global_batch, settings.accumulation, rank(), world_size(), settings.bad_image)
    restarted = was_restarted()

    def batches(first_step: int) -> Iterator[ToyBatch]:
        torch.rand(3)  # a loader, too, may draw from the global generator when it starts
        keys = [[(0, i)] for i in range(first_step * settings.accumulation, settings.steps * settings.accumulation)]
        stream = joined_batches(parts, keys, operator.itemgetter(0), workers=settings.workers)
        for number, batch in enumerate(stream):
            step = first_step + number // settings.accumulation
            time.sleep(settings.seconds_per_step / settings.accumulation)
            if step == settings.fail_step:
                raise KeyError("a mistake of ours")
            if step == settings.fault_step and settings.hang_rank == rank() and world_size() > 1:
                time.sleep(1000)
            if step == settings.fault_step and settings.kill_rank == rank() and not restarted:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    def evaluate(step: int) -> Evaluation:
        time.sleep(settings.evaluation_seconds)
        torch.rand(7)  # drawing numbers here must not change the training
        figure = figures_of(network.eval())["figure"] - 1000.0 * max(0, step - settings.turn_step)
        return Evaluation({"figure": figure})

    average = None if settings.ema is None else WeightAverage(network, settings.ema)
    outcome = train(
        network,
        batches,
        build_optimizer(network, lr=0.05, bias_lr_factor=2.0),
        steps=settings.steps + (settings.odd_rank == rank()),
        schedule=Schedule(0.05, settings.steps, milestones=(settings.steps // 2,), warmup_steps=3),
        global_batch=settings.global_batch,
        accumulation=settings.accumulation,
        device=device,
        checkpointer=Checkpointer(settings.folder, {"global_batch": settings.global_batch, "plain": settings.plain}),
        checkpoint_every=settings.checkpoint_every,
        resume=settings.resume or restarted,
        log=TrainingLog(settings.folder, tensorboard=False),
        log_every=3,
        evaluate=evaluate if settings.evaluate_every else None,
        evaluate_every=settings.evaluate_every,
        best=Best("figure", settings.patience) if settings.evaluate_every else None,
        average=average,
    )
    network.average = average
    return network, outcome


def all_weights(network: nn.Module) -> dict[str, Tensor]:
    """The weights of a network that `run` trained, and their average as "average.<name>"."""
    average = {} if network.average is None else network.average.values
    return {**network.state_dict(), **{f"average.{name}": value for name, value in average.items()}}


def session(settings: Settings) -> int:
    """A whole process's work; its exit status."""
    torch.set_num_threads(1)
    try:
        with process_group("cpu", time_limit=settings.time_limit) as device:
            network, outcome = run(settings, device)
            if outcome.finished:
                save_artifact(
                    Path(settings.folder) / f"final_{rank()}.pt",
                    "rpn",
                    network=all_weights(network),
                    metrics=outcome.metrics,
                )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return outcome.exit_status


def process(settings: Settings, environment: dict[str, str], stderr: str) -> None:
    """What a process started by the tests' `start` runs: in a group of its own, its stderr in a file."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # of its workers; this process came from a fork server
    os.environ.update(environment)
    stderr_into(stderr)
    sys.exit(leave(session(settings)))


def elastic_agent(settings: Settings, stderr: str) -> None:
    """What torchrun does with two processes and one restart, but that they are forked."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    def train() -> int:
        stderr_into(stderr)
        return session(settings)

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=1, start_method="fork",
        rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )  # fmt: skip
    elastic_launch(config, train)()


def stderr_into(path: str) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def main(arguments: list[str]) -> int:
    folder, *pairs = arguments
    known = {field.name for field in fields(Settings)}
    values = {}
    for pair in pairs:
        key, text = pair.split("=")
        assert key in known, key
        values[key] = json.loads(text)
    return session(Settings(folder, **values))


if __name__ == "__main__":
    sys.exit(leave(main(sys.argv[1:])))
