"""Seeds: determined by their numbers alone, evenly spread, and the same for ever."""

from __future__ import annotations

import numpy as np
import torch

from detection.common.seeds import GOLDEN, hash63, mix64, permutation, uniform


def test_pinned_values() -> None:
    """Runs are resumed across versions: these numbers must never change."""
    assert hash63(0) == 8147104208329303767
    assert hash63(1, 2, 3) == 7510213797696614745
    assert permutation(8, 5).tolist() == [6, 0, 4, 5, 2, 1, 7, 3]


def test_splitmix64_reference_output() -> None:
    """The first output of SplitMix64 seeded with 0 is 0xE220A8397B1DCDAF in every published implementation."""
    assert hash63(0) == 0xE220A8397B1DCDAF >> 1


def test_range_and_order_matter() -> None:
    drawn = {hash63(seed, epoch, index) for seed in range(4) for epoch in range(10) for index in range(100)}
    assert len(drawn) == 4000
    assert all(0 <= number < 2**63 for number in drawn)
    assert hash63(1, 2) != hash63(2, 1)
    assert hash63(-1) != hash63(1)


def test_uniform_is_uniform() -> None:
    numbers = np.array([uniform(7, i) for i in range(20_000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.abs(counts - 1000).max() < 150  # five standard deviations
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def test_permutation() -> None:
    for count in (0, 1, 2, 1000):
        assert sorted(permutation(count, 3).tolist()) == list(range(count))
    assert not np.array_equal(permutation(1000, 3), permutation(1000, 4))
    firsts = np.array([permutation(10, i)[0] for i in range(5000)])
    assert np.abs(np.bincount(firsts, minlength=10) - 500).max() < 110


def test_one_mixing_for_numbers_arrays_and_tensors() -> None:
    """All 64 bits are the same, whatever holds them: what is drawn on a GPU is what is drawn here."""
    numbers = [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF]
    expected = [mix64(number) % 2**64 for number in numbers]
    assert [value % 2**64 for value in mix64(np.array(numbers, dtype=np.int64)).tolist()] == expected
    assert [value % 2**64 for value in mix64(torch.tensor(numbers)).tolist()] == expected
    assert mix64(GOLDEN) % 2**64 == 0xE220A8397B1DCDAF
