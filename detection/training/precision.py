"""`runtime.precision` and a device → the type that a network computes in, with the reason in words.

    stated_precision(runtime, device)    what follows from the configuration and the device alone; None: by measurement
    remembered(about, measure)           a measured choice, from the cache file or made now

A choice that was measured is kept in `precision.json` in the folder of downloaded weights (RESNEXT_CACHE), under what
it depends on: processor, versions, threads, network, image size. A file that cannot be read is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from backbones.common.errors import UserError
from backbones.common.files import cache_folder, read_json_object, write_json
from detection import config as settings

logger = logging.getLogger(__name__)

Name = Literal["fp32", "bf16", "fp16"]

LEAST_GAIN = 1.25  # bf16 is taken from this ratio of times on
# A mean difference of probabilities at inference. The limit is to find networks that bf16 breaks. It is no limit of AP,
# which needs labels (`python -m benchmarks.precision` measures it). Of trained detectors the difference was 0.0003 to
# 0.005, as of a change of their weights by 0.1 %. Random weights, whose scores nearly tie, have 0.02 to 0.03, and are
# let pass because there is nothing in them to break and the benchmarks time them.
LARGEST_ERROR = 0.03
# The difference of a step's loss, by the loss. It was up to 0.02, measured on the first step of several trainings; the
# limit leaves room for other data, and a network that bf16 breaks has a loss of another size or none. (Gradients of
# networks that have not learnt yet cannot be compared: 0.1 % of noise in the weights changes them by 0.6 to 0.75 of
# their norm, bf16 by 0.9 to 1.0.)
LARGEST_LOSS_ERROR = 0.05
# Parameters times positions of a map of stride 16. Networks with less work are not measured and stay fp32: those of
# the small preset have 1.4e9 and are at most 1.2 times as fast in bf16; ResNeXt-50's pair has 9e10, and is 1.9 times.
LEAST_WORK = 5e9
_MOST_REMEMBERED = 200
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A choice: "fp32", "bf16" or "fp16", and the reason in words."""

    name: Name
    why: str

    @property
    def dtype(self) -> torch.dtype | None:
        """The low precision; None for fp32."""
        return _DTYPES[self.name]

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


AS_CONFIGURED = Precision("fp32", "as configured")


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own (avx512_bf16, AMX). Without them it is up
    to 400 times slower than float32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.backends.mkldnn.is_available() and any(check is not None and check() for check in checks)


def stated_precision(runtime: settings.Runtime, device: torch.device) -> Precision | None:
    """What follows from the configuration and the device; None if it is to be measured.

    On a CPU, bf16 needs a processor with instructions for it, and fp16 is not used.
    """
    asked = runtime.precision
    if device.type != "cpu":
        return Precision("fp32", "auto chooses on CPUs only") if asked == "auto" else Precision(asked, "as configured")
    if asked == "fp32":
        return AS_CONFIGURED
    if asked == "fp16":
        return Precision("fp32", "fp16 is not used on a CPU")
    if not has_bf16():
        return Precision("fp32", "this processor has no instructions for bf16")
    if asked == "bf16":
        return Precision("bf16", "as configured")
    if runtime.deterministic:
        return Precision("fp32", "runtime.deterministic, and auto depends on times that are measured")
    return None


def is_small(network: nn.Module, height: int, width: int) -> Precision | None:
    """fp32 if the network has too little work on an image for bf16 to pay; otherwise None."""
    work = sum(parameter.numel() for parameter in network.parameters()) * height * width / 256
    return Precision("fp32", "a network this small gains little in bf16") if work < LEAST_WORK else None


def described(network: nn.Module, work: str, runtime: settings.Runtime, **more: Any) -> dict[str, Any]:
    """What a measured choice depends on, as plain values. work: "inference" or "training"."""
    return {
        "work": work,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "resnext-detection": _own_version()},
        "network": _structure(network),
        "channels_last": runtime.channels_last,
        "compile": runtime.compile,
        "kernels": runtime.kernels,
        **more,
    }


def remembered(about: Mapping[str, Any], measure: Callable[[], tuple[Precision, Mapping[str, float]]]) -> Precision:
    """The choice for `about` from the cache file; otherwise that of `measure`, which is added to the file.

    measure: → the choice, and the numbers that it rests on.
    """
    try:
        path = cache_folder() / "precision.json"
    except UserError:  # no home folder: measured at every start
        return measure()[0]
    about = json.loads(json.dumps(about))
    for entry in _read(path):
        if entry["for"] == about:
            return Precision(entry["precision"], entry["why"])
    logger.info("measuring whether bf16 is faster here; once for this network and image size, kept in %s …", path)
    chosen, numbers = measure()
    entries = [*_read(path), {"for": about, "precision": chosen.name, "why": chosen.why, "measured": dict(numbers)}]
    try:
        write_json(path, {"format": 1, "choices": entries[-_MOST_REMEMBERED:]}, indent=1)
    except OSError as error:
        logger.info("the choice of precision is not kept: %s", error)
    return chosen


def judge(fp32: float, bf16: float, error: float, limit: float, unit: str, of_what: str) -> Precision:
    """The faster one, bf16 only if it gains enough within the allowed error; fp32, bf16: seconds."""
    words = (
        f"{bf16:.3g} s {unit} instead of {fp32:.3g} s with {torch.get_num_threads()} thread(s), {of_what} {error:.2g}"
    )
    if not error <= limit:
        return Precision("fp32", f"bf16 would change too much ({words}; allowed: {limit:g})")
    if fp32 < LEAST_GAIN * bf16:
        return Precision("fp32", f"bf16 gains too little here ({words})")
    return Precision("bf16", f"measured to be faster here ({words})")


def processor() -> str:
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> list[dict[str, Any]]:
    """The entries of the cache file; none if it is missing or damaged."""
    content = read_json_object(path)
    entries = content.get("choices") if content.get("format") == 1 else None
    return [entry for entry in entries if _is_entry(entry)] if isinstance(entries, list) else []


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("for"), dict)
        and entry.get("precision") in ("fp32", "bf16")
        and isinstance(entry.get("why"), str)
    )


def fingerprint(network: nn.Module) -> str:
    """A checksum that differs for other weights: of the first values of each parameter."""
    digest = hashlib.sha256()
    for name, tensor in network.named_parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _structure(network: nn.Module) -> str:
    """A text that names the structure of a network: its class, its parameters, and a checksum of their shapes."""
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    return f"{type(network).__name__}, {millions:.1f} M parameters, {digest}"


def _own_version() -> str:
    try:
        return version("resnext-detection")
    except ModuleNotFoundError:
        return "checkout"
