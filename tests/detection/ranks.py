"""Processes that are forked from the test, as importing torch anew takes seconds; several as the ranks of one run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from backbones.common.errors import UserError
from detection.training.distributed import process_group
from tests.detection.training.toy_processes import free_port

T = TypeVar("T")

fork = multiprocessing.get_context("fork")


def forked(work: Callable[[], object]) -> BaseProcess:
    """A started process that does the work."""

    def run() -> None:
        torch.set_num_threads(1)  # a forked process has none of the others
        work()

    process = fork.Process(target=run)
    process.start()
    return process


def forked_ranks(world: int, work: Callable[[int], object]) -> list[BaseProcess]:
    """Started processes that do `work(rank)` each, with the environment that torchrun gives its processes."""
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}

    def run(rank: int) -> None:
        os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
        work(rank)

    return [forked(partial(run, rank)) for rank in range(world)]


def by_ranks(world: int, work: Callable[[int, torch.device], T], time_limit: float = 60.0) -> list[T | str]:
    """What `work(rank, device)` returns on each rank, in order; in place of a result the message of its UserError."""
    results = fork.SimpleQueue()

    def run(rank: int) -> None:
        try:
            with process_group("cpu", time_limit=time_limit) as device:
                result: T | str = work(rank, device)
        except UserError as error:
            result = str(error)
        results.put((rank, result))
        os._exit(0)  # as tools leave, too

    processes = forked_ranks(world, run)
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(world)]
