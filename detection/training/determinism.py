"""`runtime.deterministic` → PyTorch's deterministic algorithms, and the name of each operator that has none.

On a CPU the results are bitwise the same from run to run. On a GPU they are the same if every operator of the training
has a deterministic form; docs/faults.md lists those that have none. PyTorch warns when one of its own is called, but
not when one of torchvision's is.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from detection import config as settings

logger = logging.getLogger(__name__)

_ALERT = re.compile(r"(\S+) does not have a deterministic implementation")


@contextlib.contextmanager
def determinism(runtime: settings.Runtime) -> Iterator[None]:
    """Context in which results are bitwise the same from run to run, if `runtime.deterministic` is set; each operator
    that has no deterministic form is logged once."""
    if not runtime.deterministic:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    was_on, was_only_warning = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmarked = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        with _log_alerts():
            yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_only_warning)
        torch.backends.cudnn.benchmark = benchmarked


def without_deterministic_form(network: nn.Module, device: torch.device) -> list[str]:
    """The operators in a network's training whose summation order varies from run to run on this device and of which
    PyTorch does not warn, as listed by the network's method `operators_without_deterministic_form`."""
    tell = getattr(network, "operators_without_deterministic_form", None)
    return [] if tell is None else tell(device)


@contextlib.contextmanager
def _log_alerts() -> Iterator[None]:
    """Logs PyTorch's warnings of operators without a deterministic form, one line for each operator."""
    show, named = warnings.showwarning, set[str]()

    def log_or_show(message: Any, *rest: Any, **more: Any) -> None:
        alert = _ALERT.match(str(message))
        if alert is None:
            show(message, *rest, **more)
        elif alert[1] not in named:
            named.add(alert[1])
            logger.warning("runtime.deterministic: %s has no deterministic form here", alert[1])

    warnings.showwarning = log_or_show
    try:
        yield
    finally:
        warnings.showwarning = show
