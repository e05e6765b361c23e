"""Processes that are forked from the test, as importing torch anew takes seconds; several as the ranks of one run.

They may do anything but train: see `fork_server`.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TypeVar

import torch

from backbones.common.errors import UserError
from detection.training.distributed import process_group
from tests.detection.training.toy_processes import rank_environments

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


def by_ranks(world: int, work: Callable[[int, torch.device], T], time_limit: float = 60.0) -> list[T | str]:
    """What `work(rank, device)` returns on each rank, in order; in place of a result the message of its UserError."""
    results = fork.SimpleQueue()

    def run(rank: int, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        try:
            with process_group("cpu", time_limit=time_limit) as device:
                result: T | str = work(rank, device)
        except UserError as error:
            result = str(error)
        except BaseException:  # the parent waits for a result of every rank
            results.put((rank, traceback.format_exc()))
            raise
        results.put((rank, result))
        os._exit(0)  # as tools leave, too

    processes = [forked(partial(run, *one)) for one in enumerate(rank_environments(world))]
    found = dict(results.get() for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0, found
    return [found[rank] for rank in range(world)]
