"""The units of work of a device, in the order of their worth. Each fits into a slot of a few minutes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BACKBONES = ("resnext50_32x4d", "resnext101_32x4d")
PRESETS = ("modern", "paper", "pyramid")
PRECISIONS = ("bf16", "fp32", "fp16")
SEEDS = (0, 1, 2)
PARTS = {
    "a": "Correctness",
    "b": "Training steps and inference beside torchvision's Faster R-CNN",
    "c": "ResNeXt beside ResNet, and the grouped convolutions",
    "d": "Profile: how long the device waits",
    "e": "Trainings on data",
    "f": "Expected hours of the presets' schedules",
}


@dataclass(frozen=True)
class Unit:
    """A piece of work whose result has a file of its own.

    part: a letter of `PARTS`. name: of the file, unique. function: "module:function" within `benchmarks.gpu`, called as
    `function(work, **arguments)` with a `results.Work`; it returns what JSON can hold. expected: seconds that it takes,
    roughly; without as much time it is not begun. limit: seconds after which it is given up as failed. continues: what
    is stopped can go on where it was.
    """

    part: str
    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    expected: float = 60.0
    limit: float = 300.0
    continues: bool = False


def units(*, quick: bool, data: Path | None = None) -> list[Unit]:
    """All units; with `quick` one of each kind, small.

    data: the root of BCCD in COCO's format; without it, only the demo is trained on.
    """
    found = [
        Unit("a", "a_kernels", "correctness:kernels"),
        *(Unit("a", f"a_networks_{preset}", "correctness:networks", {"preset": preset}) for preset in PRESETS),
        Unit("a", "a_deterministic", "correctness:deterministic"),
        Unit("a", "a_out_of_memory", "correctness:out_of_memory", expected=30),
        Unit("a", "a_tests", "correctness:tests", expected=90),
    ]
    # The presets' own precision first; each backbone and preset, before the precisions that fewer people use.
    steps = [_speed(*one, compiled=False) for one in itertools.product(PRECISIONS[:2], BACKBONES, PRESETS)]
    compiled = [_speed("bf16", *one, compiled=True) for one in itertools.product(BACKBONES, PRESETS)]
    found += steps[: len(steps) // 2]
    found += [_networks(precision) for precision in PRECISIONS[:2]]
    found += [
        Unit("d", f"d_{preset}_bf16", "gaps:profile", {"preset": preset, "precision": "bf16"}) for preset in PRESETS
    ]
    found += steps[len(steps) // 2 :] + compiled
    found += [
        _training("demo", None, precision, seed) for seed, precision in itertools.product(SEEDS, ("fp32", "bf16"))
    ]
    if data is not None:
        found += [
            _training("bccd", data, precision, seed) for seed, precision in itertools.product(SEEDS, ("fp32", "bf16"))
        ]
    found += [_shape(precision, case) for precision, case in itertools.product(PRECISIONS[:2], range(7))]
    found += [_speed("fp16", *one, compiled=False) for one in itertools.product(BACKBONES, PRESETS)]
    found += [_speed("fp32", *one, compiled=True) for one in itertools.product(BACKBONES, PRESETS)]
    found.append(_networks("fp16"))
    return _some(found) if quick else found


def _speed(precision: str, backbone: str, preset: str, *, compiled: bool) -> Unit:
    name = f"b_{backbone}_{preset}_{precision}{'_compiled' if compiled else ''}"
    arguments = {"backbone": backbone, "preset": preset, "precision": precision, "compiled": compiled}
    return Unit("b", name, "speed:beside_torchvision", arguments, expected=150 if compiled else 60, limit=480)


def _networks(precision: str) -> Unit:
    arguments = {"precision": precision}
    return Unit("c", f"c_networks_{precision}", "resnext:networks", arguments, expected=120, limit=480)


def _shape(precision: str, case: int) -> Unit:
    arguments = {"precision": precision, "case": case}
    return Unit("c", f"c_shape_{case}_{precision}", "resnext:shape", arguments, expected=40, limit=300)


def _training(name: str, data: Path | None, precision: str, seed: int) -> Unit:
    arguments = {"config": name, "data": None if data is None else str(data), "precision": precision, "seed": seed}
    # It begins in any slot, since it goes on in the next one.
    return Unit("e", f"e_{name}_{precision}_seed{seed}", "training:train", arguments, 60, 3600, continues=True)


def _some(found: list[Unit]) -> list[Unit]:
    """The first unit of each function."""
    functions = [one.function for one in found]
    return [one for number, one in enumerate(found) if functions.index(one.function) == number]
