"""The toy's processes, and what they leave behind, as the tests look at them."""

from __future__ import annotations

import functools
import json
import multiprocessing.forkserver
import multiprocessing.process
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from detection.training.artifacts import load_artifact

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent


@dataclass
class Session:
    """A process that trains the toy."""

    process: multiprocessing.process.BaseProcess
    stderr_file: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, seconds: float = 60.0) -> int:
        """The exit status; a process that takes longer than `seconds` fails the test."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running after {seconds} s: {self.stderr}"
        return self.process.exitcode

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""


@functools.cache
def fork_server() -> ForkServerContext:
    """Starts processes by forking one that has PyTorch loaded already: in a tenth of a second instead of four.

    A process that is to train cannot be forked from the test itself: where autograd has started threads (on a GPU, and
    for nested backward passes), PyTorch computes no gradients in a forked process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["toy_run", "tests.detection.pipeline", "detection.experiment.stages", "detection.classifier.stage",
         "torch.nn.parallel.distributed", "torch._dynamo"]
    )  # fmt: skip
    before = dict(os.environ)
    os.environ.update(child_environment())
    multiprocessing.forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)
    return context


def child_environment() -> dict[str, str]:
    """What a process needs in its environment to import the toy and the project, and not to take all cores."""
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens on at the moment, and that no other worker of pytest-xdist is given: each has its own
    remainder of half the port number (Linux gives out odd ports first)."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        if port // 2 % workers == worker % workers:
            return port


def rank_environments(world: int) -> list[dict[str, str]]:
    """What torchrun gives to each of its processes on one machine."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def final_weights(folder: Path | str, rank: int = 0) -> dict[str, torch.Tensor]:
    return load_artifact(Path(folder) / f"final_{rank}.pt", "rpn")["network"]


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def logged_steps(folder: Path | str, kind: str = "train") -> list[int]:
    path = Path(folder) / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry["step"] for entry in found if entry["kind"] == kind]


def logged_losses(folder: Path | str) -> list[dict[str, float]]:
    """The lines of the log's training intervals, but for the times and the memory that they took."""
    entries = map(json.loads, (Path(folder) / "log.jsonl").read_text().splitlines())
    names = ("step", "loss", "classification", "regression", "lr", "gradient_norm")
    return [{name: entry[name] for name in names} for entry in entries if entry["kind"] == "train"]


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
