"""Checks that the ranks of a run agree, made before the work begins; the failure of one rank stops the others.

    require_agreement("training the RPN", config)     the configuration and the versions, at the start
    index = together("reading the annotations", …)    work that each rank does by itself
    require_same("the data", {"train": …})            the result of that work

With a single process nothing is compared; `together` only runs its action.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from backbones.common.errors import UserError
from detection.config_file import Configuration, config_to_dict
from detection.training.artifacts import versions
from detection.training.distributed import gather_objects, report_progress, world_size

T = TypeVar("T")

# Keys of paths and hardware, which may differ between the machines of one run.
OF_ONE_MACHINE = ("data.root", "output", "runtime.device", "runtime.workers")
_PACKAGES = ("backbones", "detection")


def together(what: str, action: Callable[[], T]) -> T:
    """Runs `action` on every rank and returns its result on that rank. `action` must not communicate between ranks.

    what: the action in words ("reading the annotations"), for the error messages of the other ranks if one does not
    finish it.

    Raises:
        UserError: it failed on another rank: that rank's message.
        Exception: what `action` raised on this rank.
    """
    if world_size() == 1:
        return action()
    report_progress(what)
    result: T | None = None
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    messages = gather_objects(None if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    for other, message in enumerate(messages):
        if message is not None:
            raise UserError(f"rank {other}: {message}")
    return result  # type: ignore[return-value]


def require_same(what: str, values: Mapping[str, Any]) -> None:
    """Checks that all ranks hold the same `values` (JSON-serialisable).

    Raises:
        UserError: on every rank; it names the first rank that differs from rank 0, and lists each key that differs with
            both values.
    """
    if world_size() == 1:
        return
    everywhere = gather_objects(json.dumps(dict(values), sort_keys=True, default=str))
    for other, text in enumerate(everywhere):
        if text == everywhere[0]:
            continue
        ours, theirs = flat(json.loads(everywhere[0])), flat(json.loads(text))
        differences = [
            f"{key} is {_shown(ours, key)} on rank 0 and {_shown(theirs, key)} on rank {other}"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        raise UserError(
            f"rank {other} and rank 0 disagree on {what}: {'; '.join(differences)}. "
            "Start every rank with the same arguments, files and versions."
        )


def require_agreement(what: str, config: Configuration, **more: Any) -> None:
    """Checks that all ranks do the same work `what`, with the same configuration (except the keys in `OF_ONE_MACHINE`),
    the same values in `more`, and the same versions of PyTorch, Python and this project's source.

    Raises:
        UserError: as `require_same`.
    """
    if world_size() == 1:
        return
    values = {key: value for key, value in flat(config_to_dict(config)).items() if key not in OF_ONE_MACHINE}
    its_versions = {**versions(), "this project": _source_digest()}
    require_same("what to do", {"work": what, **values, **more, "version": its_versions})


def require_same_weights(*networks: nn.Module) -> None:
    """Checks that the networks have the same weights on all ranks.

    Raises:
        UserError: as `require_same`.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    require_same("the weights", {"SHA-256": digest.hexdigest()})


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Flattens nested dicts into one with dotted keys: {"a": {"b": 1}} → {"a.b": 1}."""
    if not isinstance(value, Mapping):
        return {key: value}
    return {
        name: leaf
        for part, item in value.items()
        for name, leaf in flat(item, f"{key}.{part}" if key else str(part)).items()
    }


def _shown(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "absent"
    return text if len(text) <= 80 else f"{text[:77]}…"


def _source_digest() -> str:
    """A digest of this project's source files on this machine."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
