"""Sampling: numbers, shares, independence of company, uniformity."""

from __future__ import annotations

import torch

from detection.geometry.sampling import random_keys, sample


def kinds(positives: int, negatives: int, ignored: int, seed: int = 0) -> torch.Tensor:
    values = torch.tensor([1] * positives + [0] * negatives + [-1] * ignored, dtype=torch.int8)
    return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]


def test_keys_are_splitmix64() -> None:
    """The published finaliser, in Python's own integers."""
    mask = 2**64 - 1

    def reference(seed: int, position: int) -> int:
        bits = (seed + 0x9E3779B97F4A7C15 * (position + 1)) & mask
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & mask
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & mask
        return (bits ^ (bits >> 31)) >> 24

    seeds = [0, 1, 2**62 + 12345, -7]
    keys = random_keys(torch.tensor(seeds), torch.arange(5))
    assert keys.tolist() == [[reference(seed, position) for position in range(5)] for seed in seeds]


def count(kind: torch.Tensor, index: torch.Tensor, valid: torch.Tensor) -> tuple[int, int]:
    drawn = kind[index[valid]]
    assert len(index[valid].unique()) == len(drawn), "nothing is drawn twice"
    assert (drawn >= 0).all(), "nothing ignored is drawn"
    return int((drawn == 1).sum()), int((drawn == 0).sum())


def test_positives_are_capped_and_negatives_fill_the_rest() -> None:
    cases = [kinds(400, 400, 200), kinds(10, 790, 200), kinds(0, 900, 100), kinds(400, 20, 580), kinds(0, 0, 1000)]
    index, valid = sample(torch.stack(cases), torch.arange(5), 256, 0.5)
    numbers = [count(kind, index[i], valid[i]) for i, kind in enumerate(cases)]
    assert numbers == [(128, 128), (10, 246), (0, 256), (128, 20), (0, 0)]


def test_positives_come_first() -> None:
    kind = kinds(30, 70, 0)
    index, _ = sample(kind[None], torch.tensor([3]), 40, 0.25)
    assert kind[index[0]].tolist() == [1] * 10 + [0] * 30


def test_an_images_sample_does_not_depend_on_its_batch() -> None:
    together = torch.stack([kinds(50, 200, 10, seed=s) for s in range(4)])
    seeds = torch.tensor([11, 22, 33, 44])
    index, _ = sample(together, seeds, 64, 0.25)
    for image in range(4):
        alone, _ = sample(together[image : image + 1], seeds[image : image + 1], 64, 0.25)
        assert torch.equal(alone[0], index[image])


def test_every_box_is_as_likely_as_another() -> None:
    rounds = 4000
    index, _ = sample(kinds(20, 80, 0)[None].expand(rounds, -1), torch.arange(rounds), 20, 0.5)
    frequency = torch.bincount(index.flatten(), minlength=100) / rounds
    kind = kinds(20, 80, 0)
    assert (frequency[kind == 1] - 10 / 20).abs().max() < 0.05  # six standard deviations
    assert (frequency[kind == 0] - 10 / 80).abs().max() < 0.035


def test_fewer_boxes_than_samples() -> None:
    index, valid = sample(torch.tensor([[1, 0, -1]], dtype=torch.int8), torch.tensor([0]), 256, 0.5)
    assert index.shape == (1, 3)
    assert valid.sum() == 2


def test_a_share_of_zero_draws_no_positives() -> None:
    kind = kinds(50, 50, 0)
    index, valid = sample(kind[None], torch.tensor([0]), 20, 0.0)
    assert count(kind, index[0], valid[0]) == (0, 20)
