"""The plan of batches: a pure function of (seed, step) that loses and doubles no image."""

from __future__ import annotations

import doctest
import importlib
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detection.data.batch_plan import REPETITION, BatchPlan, share


def ratios(wide: int, tall: int) -> np.ndarray:
    return np.array([1.5] * wide + [0.5] * tall)[np.random.default_rng(0).permutation(wide + tall)]


@pytest.mark.parametrize(
    ("wide", "tall", "batch"), [(20, 9, 4), (64, 16, 16), (7, 0, 2), (30, 3, 8), (3, 0, 8), (1, 0, 1)]
)
@pytest.mark.parametrize("group", [True, False])
def test_no_image_is_lost_or_doubled(wide: int, tall: int, batch: int, group: bool) -> None:
    plan = BatchPlan(ratios(wide, tall), batch, seed=5, group_by_aspect=group)
    images = wide + tall
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(images * 3):  # batch passes and more
        epochs, indices = plan[step]
        assert len(epochs) == len(indices) == batch
        seen.update(zip(epochs.tolist(), indices.tolist(), strict=True))
    assert set(seen.values()) == {1}
    passes = Counter(epoch for epoch, _ in seen)
    last = max(passes)
    assert all(passes[epoch] == images for epoch in range(last - 2))  # the groups' passes end a batch or two apart


def test_groups_fill_batches_of_their_own() -> None:
    aspect = ratios(20, 9)
    plan = BatchPlan(aspect, 4, seed=5)
    kinds = [set((aspect[plan[step].indices] >= 1).tolist()) for step in range(200)]
    assert all(len(kind) == 1 for kind in kinds)
    assert abs(sum(kind == {True} for kind in kinds) / 200 - 20 / 29) < 0.02
    mixed = BatchPlan(aspect, 4, seed=5, group_by_aspect=False)
    assert any(len(set((aspect[mixed[step].indices] >= 1).tolist())) == 2 for step in range(20))


def test_a_group_smaller_than_a_batch_is_not_kept_apart() -> None:
    plan = BatchPlan(ratios(30, 3), 8, seed=0)
    assert len(plan.groups) == 1
    assert all(len(set(plan[step].indices.tolist())) == 8 for step in range(3))


def test_pure_function_of_seed_and_step() -> None:
    aspect = ratios(50, 21)
    forward, backward = BatchPlan(aspect, 6, seed=1), BatchPlan(aspect, 6, seed=1)
    planned = [forward[step] for step in range(100)]
    for step in reversed(range(100)):
        epochs, indices = backward[step]
        assert np.array_equal(epochs, planned[step].epochs)
        assert np.array_equal(indices, planned[step].indices)
    other = BatchPlan(aspect, 6, seed=2)
    assert any(not np.array_equal(other[step].indices, planned[step].indices) for step in range(5))


def test_epochs_differ_in_their_order() -> None:
    plan = BatchPlan(ratios(40, 0), 8, seed=0)
    first, second = (np.concatenate([plan[step].indices for step in steps]) for steps in (range(5), range(5, 10)))
    assert sorted(first) == sorted(second) == list(range(40))
    assert not np.array_equal(first, second)
    assert plan.steps_per_epoch == 5


def test_images_are_repeated_as_often_as_their_factors_say_on_average() -> None:
    aspect = ratios(40, 21)
    factors = np.random.default_rng(1).choice([1.0, 1.4, 2.0, 3.7], size=61)
    plan = BatchPlan(aspect, 4, seed=3, factors=factors)
    counts: dict[int, Counter[int]] = {}
    seen: Counter[tuple[int, int]] = Counter()
    passes = 200
    for step in range(int(plan.steps_per_epoch * (passes + 1))):
        epochs, indices = plan[step]
        assert len({bool(aspect[i] >= 1) for i in indices}) == 1
        for epoch, i in zip(epochs.tolist(), indices.tolist(), strict=True):
            counts.setdefault(epoch % REPETITION, Counter())[i] += 1
            seen[epoch, i] += 1
    assert set(seen.values()) == {1}  # no two samples are the same one
    table = np.array([[counts[epoch][i] for i in range(61)] for epoch in range(passes - 2)])
    for group, length in zip(plan.groups, plan.lengths, strict=True):
        assert length == round(factors[group].sum())
        assert set(table[:, group].sum(axis=1)) == {length}
        expected = factors[group] * length / factors[group].sum()
        assert (np.abs(table[:, group] - expected) < 1).all()  # rounded down or up
        assert np.abs(table[:, group].mean(axis=0) - expected).max() < 4 * 0.5 / np.sqrt(passes)


def test_a_plan_with_repetitions_is_a_function_of_seed_and_step() -> None:
    factors = np.linspace(1, 3, 30)
    forward, backward = (BatchPlan(ratios(30, 0), 4, seed=1, factors=factors) for _ in range(2))
    planned = [forward[step] for step in range(80)]
    for step in reversed(range(80)):
        assert all(np.array_equal(a, b) for a, b in zip(backward[step], planned[step], strict=True))


def test_factors_of_1_repeat_nothing() -> None:
    plan = BatchPlan(ratios(30, 9), 4, seed=1, factors=np.ones(39))
    epochs, indices = (np.concatenate([plan[step][column] for step in range(100)]) for column in (0, 1))
    assert epochs.max() < REPETITION
    assert len(set(zip(epochs.tolist(), indices.tolist(), strict=True))) == 400


def test_coco_sized_plan_is_quick() -> None:
    plan = BatchPlan(ratios(88_000, 29_266), 16, seed=0)
    begin = time.process_time()
    plan[179_999]
    first = time.process_time() - begin
    begin = time.process_time()
    for step in range(179_000, 179_500):
        plan[step]
    assert first < 2
    assert (time.process_time() - begin) / 500 < 0.005


def test_impossible_plans() -> None:
    with pytest.raises(ValueError, match="0 images"):
        BatchPlan(np.zeros(0), 4, seed=0)
    with pytest.raises(ValueError, match="batches of 0"):
        BatchPlan(np.ones(3), 0, seed=0)
    with pytest.raises(IndexError):
        BatchPlan(np.ones(3), 2, seed=0)[-1]


@given(batch=st.integers(1, 40), world=st.integers(1, 6), accumulation=st.integers(1, 6))
def test_shares_are_a_partition(batch: int, world: int, accumulation: int) -> None:
    indices = np.arange(batch) * 3
    if batch < world * accumulation:
        with pytest.raises(ValueError, match="cannot be split"):
            share(indices, 0, world, accumulation)
        return
    parts = [part for rank in range(world) for part in share(indices, rank, world, accumulation)]
    assert np.array_equal(np.concatenate(parts), indices)
    assert len(parts) == world * accumulation
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_examples_in_the_data_room_are_true() -> None:
    for name in ("augmentation", "batch_plan", "demo"):
        results = doctest.testmod(importlib.import_module(f"detection.data.{name}"))
        assert results.attempted > 0
        assert results.failed == 0
