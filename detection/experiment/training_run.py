"""A configuration's file, or a folder of data → the whole chain, inside the process group: for the tool and Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from detection.config import Runtime
from detection.config_file import load_config, quoted
from detection.experiment.chain import ChainResult, train_and_evaluate
from detection.experiment.config_for_data import config_for_data
from detection.experiment.said_once import said_once
from detection.training.distributed import process_group

# Seconds that an exchange between ranks may take before a configuration says so
_TIME_LIMIT = 60 * Runtime().timeout_minutes


def run_for_data(
    data: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    init_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> ChainResult:
    """`train_and_evaluate` by the configuration of `config_for_data`."""
    with process_group(device, time_limit=_TIME_LIMIT) as chosen, said_once():
        config, fitted = config_for_data(
            Path(data),
            chosen,
            output=None if output is None else Path(output),
            changes=changes,
            minutes=minutes,
            init_from=None if init_from is None else Path(init_from),
            stated_device=device,
        )
        return train_and_evaluate(config, chosen, paces=None if fitted is None else fitted.paces)


def run_for_config(
    path: str | os.PathLike[str],
    *,
    init_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> ChainResult:
    """`train_and_evaluate` by a configuration's file with `key.sub=value` changes."""
    changes = list(changes)
    if init_from is not None:
        changes.append(f"init_from={quoted(str(init_from))}")
    if device != "auto":
        changes.append(f"runtime.device={device}")
    config = load_config(Path(path), changes)
    with process_group(config.runtime.device, time_limit=60 * config.runtime.timeout_minutes) as chosen, said_once():
        return train_and_evaluate(config, chosen)
