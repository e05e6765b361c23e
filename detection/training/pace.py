"""A stage → the duration of its steps on this machine, from some steps that keep nothing."""

from __future__ import annotations

import io
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detection.training.determinism import determinism
from detection.training.distributed import broadcast_object
from detection.training.logging import TrainingLog
from detection.training.recipe import schedule_for
from detection.training.run import train_stage
from detection.training.stage import Stage

_STEPS = 7  # measured, after one to warm up
# Where more steps fit into these seconds. On a CPU the first ones with each size of images take up to three times as
# long as later ones.
_SECONDS, _MOST_STEPS = 8.0, 60


class Pace(NamedTuple):
    """
    Fields:
        step: seconds of a step.
        start: seconds to the end of the first step, with start of workers and compilation.
        measured: `step` is the median of so many.
    """

    step: float
    start: float
    measured: int


def measure_pace(stage: Stage) -> Pace:
    """The pace of a stage whose precision is decided; every rank calls this.

    The median is not changed by a pause of a busy machine. Short steps are measured a second time, and the later half
    of them counts. On a GPU every step waits for its result, which makes it a little longer.
    """
    first = _step_ends(stage, _STEPS)
    step = statistics.median(_durations(first))
    more = broadcast_object(min(int(_SECONDS / max(step, 1e-6)), _MOST_STEPS))
    if more <= _STEPS:
        return Pace(step, first[0], _STEPS)
    later = _durations(_step_ends(stage, more))[more // 2 :]
    return Pace(statistics.median(later), first[0], len(later))


class _StepEnds(TrainingLog):
    """Keeps the time at which every step ended, and prints nothing."""

    def __init__(self) -> None:
        super().__init__(stream=io.StringIO())
        self.ends: list[float] = []

    def train(self, step: int, steps: int, figures: Mapping[str, float]) -> None:
        """Notes the end of a step."""
        self.ends.append(time.monotonic())


def _step_ends(stage: Stage, steps: int) -> list[float]:
    """The seconds after which each step ended: one to warm up and `steps` others. At a thousandth of the rate an
    untrained network does not diverge."""
    log, schedule = _StepEnds(), schedule_for(stage.training)
    began = time.monotonic()
    with determinism(stage.runtime):
        train_stage(stage, steps=1 + steps, schedule=lambda step: schedule(step) * 1e-3, log=log, log_every=1)
    return [end - began for end in log.ends]


def _durations(ends: Sequence[float]) -> list[float]:
    return [max(end - begin, 1e-6) for begin, end in itertools.pairwise(ends)]
