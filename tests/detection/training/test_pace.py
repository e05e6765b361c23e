"""How long a step takes, against a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from detection import config as settings
from detection.training import pace
from detection.training.logging import TrainingLog
from detection.training.stage import Stage

STAGE = cast(Stage, SimpleNamespace(training=settings.Training(), runtime=settings.Runtime()))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int, int], float]], list[int]]:
    """(training, step) → seconds that this step takes; the list is of the steps that each training had."""
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def pretend(seconds: Callable[[int, int], float]) -> list[int]:
        done: list[int] = []

        def train_stage(
            stage: Stage, *, steps: int, schedule: Callable[[int], float], log: TrainingLog, log_every: int
        ) -> None:
            assert log_every == 1
            assert 0 < schedule(steps) <= settings.Training().learning_rate * 1e-3
            for step in range(steps):
                now[0] += seconds(len(done), step)
                log.train(step + 1, steps, {})
            done.append(steps)

        monkeypatch.setattr(pace, "train_stage", train_stage)
        return done

    return pretend


def test_long_steps_are_measured_once(trainings: Callable[[Callable[[int, int], float]], list[int]]) -> None:
    done = trainings(lambda training, step: 9.0 if step == 0 else 60.0 if step == 3 else 2.0)
    assert pace.measure_pace(STAGE) == pytest.approx((2.0, 9.0, 7))
    assert done == [8]


def test_of_short_steps_the_later_half_of_a_second_training_counts(
    trainings: Callable[[Callable[[int, int], float]], list[int]],
) -> None:
    # 0.41 s the first time and in the first half of the second training, then 0.25 s
    done = trainings(lambda training, step: 3.0 if step == 0 else 0.25 if training == 1 and step > 10 else 0.41)
    assert pace.measure_pace(STAGE) == pytest.approx((0.25, 3.0, 10))
    assert done == [8, 20]  # 8 s of 0.41 s, and one to warm up


def test_the_second_training_is_limited(trainings: Callable[[Callable[[int, int], float]], list[int]]) -> None:
    done = trainings(lambda training, step: 1e-3)
    assert pace.measure_pace(STAGE).measured == 30
    assert done == [8, 61]
