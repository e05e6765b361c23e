"""A unit of work in a process of its own, with a limit of time: what breaks the device or the process ends with it.

The processes are forked from a server that has imported PyTorch and has not touched the device, which saves its import
for each; where there is no forking, each starts anew.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.results import WORK_FOLDER, Work, about_device, write_unit
from benchmarks.gpu.units import Unit
from detection.training.distributed import process_group

_GRACE = 30.0  # seconds between asking a process to end and ending it: a training writes a checkpoint
_PRELOADED = ["torch", "torchvision", "benchmarks.detector"]
_LENGTH = 4000  # characters of an error that are kept, its end


def run_unit(unit: Unit, device: str, quick: bool, folder: Path) -> None:
    """Computes the unit in this process and writes its result into the folder, or its error.

    An interruption (SIGTERM, Ctrl-C) leaves no result.
    """
    begin = time.perf_counter()
    about: dict[str, Any] = {}
    try:
        with process_group(device) as place:
            about = about_device(place)
            result = _function(unit)(Work(place, quick, folder / WORK_FOLDER / unit.name), **unit.arguments)
    except Exception:
        text = traceback.format_exc()[-_LENGTH:]
        write_unit(folder, unit, about or about_device(torch.device("cpu")), seconds=_since(begin), error=text)
        return
    write_unit(folder, unit, about, seconds=_since(begin), result=result)


def run_in_own_process(unit: Unit, device: str, quick: bool, folder: Path, deadline: float) -> bool:
    """`run_unit` in a process of its own. Returns whether it ended: False says that `deadline` (`time.monotonic`)
    came first, and that nothing was written.

    A process that dies, or takes longer than the unit's limit, is recorded as a failure.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if hasattr(context, "set_forkserver_preload"):
        context.set_forkserver_preload(_PRELOADED)
    begin = time.monotonic()
    limit = begin + unit.limit
    process = context.Process(target=run_unit, args=(unit, device, quick, folder), name=unit.name)  # type: ignore[attr-defined]
    process.start()
    process.join(max(0.0, min(deadline, limit) - time.monotonic()))
    too_long = process.is_alive()
    if too_long:
        process.terminate()
        process.join(_GRACE)
        if process.is_alive():
            process.kill()
            process.join()
    if (folder / f"{unit.name}.json").exists():
        return True
    if too_long and deadline <= limit:
        return False
    reason = f"took longer than {unit.limit:.0f} s" if too_long else f"its process ended with status {process.exitcode}"
    # The device may be unusable now: what is told of it must not touch it.
    about = about_device(torch.device("cpu"))
    write_unit(folder, unit, about, seconds=time.monotonic() - begin, error=f"{unit.name}: {reason}")
    return True


def _function(unit: Unit) -> Any:
    module, _, name = unit.function.partition(":")
    return getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)


def _since(begin: float) -> float:
    return time.perf_counter() - begin
