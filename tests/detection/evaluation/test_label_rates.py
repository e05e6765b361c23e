"""Classes that are rarer in one of two splits: found where labels were removed, and not where images were divided at
random."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from detection.evaluation import label_rates
from detection.evaluation.label_rates import ObjectRates, object_rates, rarer_classes

LIMITS = {"fewest": 10.0, "share": 0.7, "chance": 0.01}


def drawn(seed: int, images: int, means: list[float], *, more: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Images and classes of objects; crowded images have more of every class, by a factor of their own."""
    draw = np.random.default_rng(seed)
    crowding = draw.gamma(2.0, 0.5, size=(images, 1))
    counts = draw.poisson(more * crowding * np.array(means))
    places = np.repeat(np.arange(counts.size), counts.ravel())
    return places // len(means), places % len(means)


def rates_of(objects: tuple[np.ndarray, np.ndarray], images: int, classes: int) -> ObjectRates:
    return object_rates(*objects, images, classes)


def test_counts_are_those_of_a_loop() -> None:
    images, classes = drawn(0, 50, [3.0, 0.5, 0.0])
    found = object_rates(images, classes, 50, 3)
    for k in range(3):
        counts = [int(((images == i) & (classes == k)).sum()) for i in range(50)]
        assert found.objects[k] == sum(counts)
        assert found.squares[k] == sum(count**2 for count in counts)
    assert label_rates._variance(found, 0) == pytest.approx(
        np.var([(images[classes == 0] == i).sum() for i in range(50)], ddof=1) / 50
    )
    empty = np.zeros(0, dtype=np.int64)
    assert object_rates(empty, empty, 5, 2).objects.tolist() == [0, 0]
    assert object_rates(empty, empty, 5, 0).objects.tolist() == []


@pytest.mark.parametrize("means", [[2.0], [10.0, 1.0, 1.0], [0.5] * 80], ids=["one class", "three", "eighty"])
def test_of_splits_at_random_hardly_any_class_is_named(means: list[float]) -> None:
    alarms = 0
    for seed in range(100):
        first = rates_of(drawn(2 * seed, 200, means), 200, len(means))
        second = rates_of(drawn(2 * seed + 1, 60, means), 60, len(means))
        alarms += bool(rarer_classes(first, second, **LIMITS))
    assert alarms <= 6


def test_half_of_the_labels_of_a_class_and_of_no_other() -> None:
    means = [10.0, 1.0, 1.0]
    second = rates_of(drawn(1, 72, means), 72, 3)
    images, classes = drawn(2, 205, means)
    gone = np.flatnonzero(classes == 2)[::2]
    first = rates_of((np.delete(images, gone), np.delete(classes, gone)), 205, 3)
    (found,) = rarer_classes(first, second, **LIMITS)
    assert found.k == 2
    assert found.first < 0.7 * found.expected
    dominant = np.flatnonzero(classes == 0)[::2]
    first_again = rates_of((np.delete(images, dominant), np.delete(classes, dominant)), 205, 3)
    assert [one.k for one in rarer_classes(first_again, second, **LIMITS)] == [0], "most of the objects, and no other"
    (reverse,) = rarer_classes(second, first, **LIMITS)
    assert (reverse.k, reverse.first, reverse.second) == (2, found.second, found.first)


def test_of_two_classes_the_one_that_differs() -> None:
    images, classes = drawn(2, 205, [3.0, 1.0])
    gone = np.flatnonzero(classes == 0)[::2]
    first = rates_of((np.delete(images, gone), np.delete(classes, gone)), 205, 2)
    assert [one.k for one in rarer_classes(first, rates_of(drawn(1, 100, [3.0, 1.0]), 100, 2), **LIMITS)] == [0]


def test_images_that_show_more_of_everything_say_nothing_about_labels() -> None:
    means = [5.0, 5.0, 5.0]
    first, second = rates_of(drawn(1, 200, means), 200, 3), rates_of(drawn(2, 200, means, more=3.0), 200, 3)
    assert rarer_classes(first, second, **LIMITS) == []


def test_few_objects_or_images_say_nothing() -> None:
    many = rates_of(drawn(1, 200, [5.0]), 200, 1)
    assert rarer_classes(many, object_rates(np.arange(9), np.zeros(9, dtype=np.int64), 200, 1), **LIMITS) == []
    assert rarer_classes(many, object_rates(np.arange(60) % 3, np.zeros(60, dtype=np.int64), 3, 1), **LIMITS) == []


def test_worked_examples() -> None:
    outcome = doctest.testmod(label_rates)
    assert outcome.attempted > 0
    assert outcome.failed == 0
